"""The delayed centre-out reach, and its dense low-rank control, as sessions in memory."""

from __future__ import annotations

import numpy as np
import pandas as pd

from saebook.data.simulate.embedding import (
    Embedding,
    draw_embedding,
    draw_forms,
    output_weights,
)
from saebook.data.simulate.features import REACH_FEATURES, feature_names, reach_features
from saebook.data.simulate.population import DRIFT_TO, Population, draw_population
from saebook.data.simulate.settings import check_whole_numbers
from saebook.data.simulate.simulation import RateModel, Simulation, bias_for
from saebook.data.simulate.spiking import (
    SAMPLING_RATE_HZ,
    add_foreign,
    jittered_copy,
    poisson_train,
)
from saebook.data.simulate.task import ReachTask, draw_trials, hand, trial_at
from saebook.data.spikes.recording import Interval, Series
from saebook.errors import ConfigError

# Part of the parameters of every file: a file of another version is never taken for this one's.
VERSION = 1
GRID_HZ = 200
GAIN_CV = 0.2
N_FACTORS = 8
EMBEDDINGS = ("linear", "nonlinear")
REFERENCE_TRIALS = 60
REFERENCE_HZ = 50
MUA_FROM = 0.3
DESCRIPTION = {
    "reach": "Simulated recording: delayed centre-out reach, units driven by known sparse features",
    "dense_control": (
        "Simulated recording: delayed centre-out reach, units driven by a few dense factors "
        "(control on which sparse models have no advantage)"
    ),
}


def simulate_reach(
    n_units: int = 60,
    n_trials: int = 150,
    seed: int = 0,
    *,
    link: str = "exp",
    embedding: str = "linear",
    n_features: int = len(REACH_FEATURES),
    session: int = 0,
    animal: int = 0,
    defects: bool = True,
    kind: str = "reach",
    progress: bool = False,
) -> Simulation:
    """Simulate a delayed centre-out reach in memory.

    Parameters
    ----------
    n_units
        Number of units, at least 20.
    n_trials
        Number of trials, about 3.65 s each.
    seed, animal, session
        The same values give the same session. Sessions of one animal share 60 % of their units.
    link
        "exp": features multiply rates. "softplus": they add to them, as an SAE decodes.
    embedding
        "linear": units follow weighted features. "nonlinear": they follow a two-layer function
        of them, link(b + W₂ relu(W₁ z + c)); a unit follows a feature only with, or unless, one
        of a group of others is active, or only where it is strong. A linear map of the true
        features then misses 0.2 to 0.35 of the variance of the rates, and a dictionary with a
        linear decoder needs several latents per feature.
    n_features
        Number of features: 32, or more for independent events on top.
    defects
        Plant contaminated, low-rate, drifting, lost and duplicated units.
    kind
        "reach", or "dense_control": eight signed factors drive every unit, on which PCA should
        win; `n_features` is 8 then.
    progress
        Show a progress bar over units.

    Returns
    -------
    Simulation
        Spikes, and everything that is true of them.

    Raises
    ------
    ConfigError
        A setting is out of range.

    Source
    ------
    Task after Churchland et al. (2012); rates after Truccolo et al. (2005); baselines after
    Buzsáki and Mizuseki (2014); gain variability after Goris et al. (2014).

    Examples
    --------
    >>> simulate_reach(n_units=20, n_trials=8, seed=1).trials.shape[0]
    8
    """
    _check(n_units, n_trials, seed, link, embedding, n_features, session, animal, kind)
    origin = (seed, animal, session)
    trial_rng, feature_rng, gain_rng = (np.random.default_rng([*origin, i]) for i in (2, 3, 4))
    task = ReachTask()
    trials = draw_trials(task, n_trials, trial_rng)
    # A whole number of 50 ms bins, so that usual bin sizes lose nothing at the end.
    stop = np.ceil(trials["next_time"].iloc[-1] * 20.0) / 20.0
    interval = Interval(0.0, float(stop))
    n_steps = round(stop * GRID_HZ)
    times = (np.arange(n_steps) + 0.5) / GRID_HZ
    trial = trial_at(trials, times)
    if kind == "reach":
        names = feature_names(n_features)
        features = reach_features(task, trials, times, names, feature_rng)
    else:
        names = tuple(f"factor_{i}" for i in range(N_FACTORS))
        features = dense_factors(trials, times, feature_rng)

    n_sparse = n_features if kind == "reach" else len(REACH_FEATURES)
    population = draw_population(n_units, n_sparse, seed, animal, session, defects)
    if kind == "dense_control":
        _make_dense(population, seed, animal)
    hidden = _embedding(task, names, seed, animal) if embedding == "nonlinear" else None
    forms = None if hidden is None else _forms(population, hidden, seed, animal)
    model = _rate_model(
        population, features, link, trial, interval, gain_rng, n_trials, hidden, forms
    )
    spikes, foreign_share, mean_hz = _draw_spikes(population, model, interval, origin, progress)
    unit = pd.Index(population.unit_id, name="unit")
    parameters = {
        "simulator": "saebook",
        "version": VERSION,
        "kind": kind,
        "n_units": n_units,
        "n_trials": n_trials,
        "seed": seed,
        "link": link,
        "embedding": embedding,
        "n_features": len(names),
        "session": session,
        "animal": animal,
        "defects": defects,
        "session_id": f"{kind}-animal{animal}-session{session}-seed{seed}",
        "description": DESCRIPTION[kind] + (", embedded non-linearly" if hidden else ""),
        "grid_hz": GRID_HZ,
    }
    position, velocity = hand(task, trials, trial, times)
    return Simulation(
        kind=kind,
        spike_times=spikes,
        units=_unit_table(population, model, foreign_share, mean_hz, unit),
        mixing=pd.DataFrame(model.directions(), index=unit, columns=list(names)),
        features=Series("features", features, times, "a.u.", names),
        trials=trials.drop(columns="next_time"),
        behavior={
            "hand_position": Series("hand_position", position, times, "meters", ("x", "y")),
            "hand_velocity": Series("hand_velocity", velocity, times, "m/s", ("x", "y")),
        },
        interval=interval,
        rate_model=model,
        parameters=parameters,
    )


def dense_factors(trials: pd.DataFrame, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return eight dense, signed, smooth factors [n_steps, 8], float32, each of variance 1.

    Four planes rotate at 0.5 to 2.5 Hz with damping; noise drives them all the time, and each go
    cue kicks them along a vector that depends on the direction of the reach.

    Parameters
    ----------
    trials
        With `go_time` and `reach_direction`.
    times
        Regular grid [n], s.
    rng
        Source of kicks and noise.
    """
    from scipy.signal import lfilter

    step = times[1] - times[0]
    go = np.searchsorted(times, trials["go_time"].to_numpy())
    angle = trials["reach_direction"].to_numpy()
    factors = []
    for frequency in (0.5, 1.0, 1.7, 2.5):
        drive = rng.standard_normal((len(times), 2)) @ [1.0, 1j] * np.sqrt(step)
        phase = rng.uniform(0.0, 2.0 * np.pi, 2)
        kick = np.exp(1j * phase[0]) * np.cos(angle) + np.exp(1j * phase[1]) * np.sin(angle)
        np.add.at(drive, go, 1.5 * kick)
        keep = np.exp(step * (2j * np.pi * frequency - 2.0))
        plane = np.asarray(lfilter([1.0], [1.0, -keep], drive))
        factors += [np.real(plane), np.imag(plane)]
    factors = np.stack(factors, axis=1)
    factors = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    return np.asfortranarray(factors, dtype=np.float32)


def _make_dense(population: Population, seed: int, animal: int) -> None:
    """Load every unit on every factor; the weights of a neuron follow its id."""
    dense = np.empty((len(population.unit_id), N_FACTORS))
    for row, unit in enumerate(population.unit_id):
        dense[row] = np.random.default_rng([seed, animal, 7, int(unit)]).normal(
            0.0, 0.25, N_FACTORS
        )
    copies = population.duplicate_of >= 0
    dense[copies] = dense[population.duplicate_of[copies]]
    population.log_gains = dense


def _embedding(task: ReachTask, names: tuple[str, ...], seed: int, animal: int) -> Embedding:
    """Draw the animal's embedding, which is the same in all of its sessions."""
    trial_rng, feature_rng, rng = (np.random.default_rng([seed, animal, 8, i]) for i in range(3))
    trials = draw_trials(task, REFERENCE_TRIALS, trial_rng)
    times = np.arange(0.0, trials["next_time"].iloc[-1], 1.0 / REFERENCE_HZ)
    return draw_embedding(reach_features(task, trials, times, names, feature_rng), rng)


def _forms(population: Population, embedding: Embedding, seed: int, animal: int) -> np.ndarray:
    """Draw in which form each unit follows each feature; that of a neuron follows its id."""
    n_features = population.log_gains.shape[1]
    forms = np.empty((len(population.unit_id), n_features), int)
    for row, unit in enumerate(population.unit_id):
        rng = np.random.default_rng([seed, animal, 9, int(unit)])
        forms[row] = draw_forms((1, n_features), embedding, rng)[0]
    copies = population.duplicate_of >= 0
    forms[copies] = forms[population.duplicate_of[copies]]
    return forms


def _rate_model(
    population, features, link, trial, interval, rng, n_trials, embedding, forms
) -> RateModel:
    n = len(population.unit_id)
    weights = population.log_gains.copy()
    level = np.where(np.isnan(population.target_hz), population.baseline_hz, population.target_hz)
    if link == "softplus":
        # Hz added at a feature's peak: what the exp link adds when the feature is alone.
        weights = level[:, None] * np.expm1(weights)
    if embedding is not None:
        weights = output_weights(weights, forms)
    gains = rng.gamma(GAIN_CV**-2, GAIN_CV**2, (n_trials, n)).astype(np.float32)
    copies = np.flatnonzero(population.duplicate_of >= 0)
    gains[:, copies] = gains[:, population.duplicate_of[copies]]
    lost_at = np.full(n, interval.stop)
    lost_at[population.defect == "lost"] = interval.start + 0.5 * interval.duration
    model = RateModel(
        features=features,
        start=interval.start,
        step_s=1.0 / GRID_HZ,
        link=link,
        bias=bias_for(level, link),
        weights=weights,
        trial=trial.astype(np.int32),
        gains=gains,
        drift_to=np.where(population.defect == "drifting", DRIFT_TO, 1.0),
        lost_at=lost_at,
        foreign_hz=np.zeros(n),
        embedding=embedding,
    )
    for row in np.flatnonzero(~np.isnan(population.target_hz)):
        model.set_mean(int(row), population.target_hz[row])
    return model


def _draw_spikes(population, model, interval, origin, progress):
    from tqdm.auto import tqdm

    n = len(population.unit_id)
    samples: list[np.ndarray] = [np.empty(0, np.int64)] * n
    share, mean_hz = np.zeros(n), np.zeros(n)
    # Originals first: a duplicate needs the train that it copies.
    order = np.argsort(population.duplicate_of >= 0, kind="stable")
    for row in tqdm(order, desc="simulating units", unit="unit", disable=not progress):
        rng = np.random.default_rng([*origin, 5, int(population.unit_id[row])])
        source = population.duplicate_of[row]
        if source >= 0:
            train = jittered_copy(samples[source], interval.start, interval.stop, rng)
            mean_hz[row] = mean_hz[source]
        else:
            rate, refractory = model.own(row), int(population.refractory[row])
            train = poisson_train(rate, model.step_s, model.start, refractory, rng)
            mean_hz[row] = rate.mean()
        if population.contamination[row] > 0:
            n_own = len(train)
            train, share[row] = add_foreign(
                train, population.contamination[row], interval.start, interval.stop, rng
            )
            model.foreign_hz[row] = (len(train) - n_own) / interval.duration
        samples[row] = train
    trains = [train / SAMPLING_RATE_HZ for train in samples]
    return trains, share, mean_hz + model.foreign_hz


def _unit_table(population, model, foreign_share, mean_hz, unit) -> pd.DataFrame:
    link_of_bias = np.exp(model.bias) if model.link == "exp" else np.logaddexp(0.0, model.bias)
    source = population.duplicate_of
    return pd.DataFrame(
        {
            "KSLabel": np.where(population.contamination >= MUA_FROM, "mua", "good"),
            "electrode": population.electrode,
            "true_defect": population.defect.astype(str),
            "true_contamination": population.contamination,
            "true_foreign_fraction": foreign_share,
            "true_foreign_hz": model.foreign_hz,
            "true_refractory_s": population.refractory / SAMPLING_RATE_HZ,
            "true_baseline_hz": link_of_bias,
            "true_rate_hz": mean_hz,
            "true_drift_to": model.drift_to,
            "true_lost_at_s": model.lost_at,
            "true_duplicate_of": np.where(source >= 0, population.unit_id[source], -1),
        },
        index=unit,
    )


def _check(n_units, n_trials, seed, link, embedding, n_features, session, animal, kind) -> None:
    if kind not in DESCRIPTION:
        raise ConfigError(f"kind={kind!r} is no reach. Give one of {', '.join(DESCRIPTION)}.")
    if link not in ("exp", "softplus"):
        raise ConfigError(f"link={link!r} is unknown. Give 'exp' or 'softplus'.")
    if embedding not in EMBEDDINGS:
        raise ConfigError(
            f"embedding={embedding!r} is unknown. Give one of {', '.join(EMBEDDINGS)}."
        )
    if embedding == "nonlinear" and kind != "reach":
        raise ConfigError(
            f"embedding='nonlinear' with kind={kind!r}: only the sparse features of kind='reach' "
            "can be embedded non-linearly. Give embedding='linear'."
        )
    if kind == "reach" and n_features < len(REACH_FEATURES):
        raise ConfigError(
            f"n_features={n_features}, but the reach has {len(REACH_FEATURES)} of its own. "
            f"Give {len(REACH_FEATURES)} or more, or change n_units for another regime."
        )
    check_whole_numbers(20, n_units=n_units)
    check_whole_numbers(8, n_trials=n_trials)
    check_whole_numbers(1, n_features=n_features)
    check_whole_numbers(0, seed=seed, session=session, animal=animal)
