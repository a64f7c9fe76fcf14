"""LFADS: its terms against closed forms, its masks, its windows, and what training has to give."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from saebook.baselines import GaussianSmoothing
from saebook.baselines.lfads import LFADS, LFADSConfig, LFADSModel, training
from saebook.baselines.lfads.cells import draw_weights, drop_with, gru_step, unit_rows
from saebook.baselines.lfads.encoding import encode_plain, encode_side_by_side
from saebook.baselines.lfads.loop import Start, Weights, run_fast, run_plain
from saebook.baselines.lfads.losses import (
    hidden_parts,
    hide,
    hide_where,
    kl_autoregressive,
    kl_normal,
    poisson_nll,
    ramp,
)
from saebook.baselines.lfads.model import Posterior, lag_both
from saebook.baselines.lfads.training import Windows, mean_path_rates, objective
from saebook.baselines.lfads.windows import chop, merge, window_length
from saebook.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EnvironmentProblem,
    TrainingError,
)

QUICK = {"max_epochs": 2, "n_samples": 3, "batch_size": 8}


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=source(seed))


def poisson(*shape: int, mean: float = 0.4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, shape).astype(float)


def small(n_units: int = 4, n_targets: int = 6, **changes) -> LFADSModel:
    return LFADSModel(LFADSConfig.tiny(**changes), n_units, n_targets, seed=1)


# -- terms ---------------------------------------------------------------------------------------


def test_poisson_nll_is_that_of_torch():
    r, n = randn(5, 3), torch.poisson(torch.ones(5, 3), generator=source())
    wanted = nn.functional.poisson_nll_loss(r, n, log_input=True, reduction="none")
    torch.testing.assert_close(poisson_nll(r, n), wanted)


def test_divergence_of_normals_is_that_of_torch():
    m, v, pm, pv = (randn(7, seed=i) for i in range(4))
    q = torch.distributions.Normal(m, (v / 2).exp())
    p = torch.distributions.Normal(pm, (pv / 2).exp())
    wanted = torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(kl_normal(m, v, pm, pv), wanted)
    torch.testing.assert_close(kl_normal(m, v, m, v), torch.zeros(7))


def test_divergence_from_the_ar1_process_is_that_of_its_covariance():
    """Posterior independent over time: both sequences are normal, and the divergence is known."""
    n_bins, tau, noise = 5, 3.0, 0.4
    alpha = np.exp(-1 / tau)
    step = torch.arange(n_bins, dtype=torch.float64)
    covariance = noise / (1 - alpha**2) * alpha ** (step[:, None] - step).abs()
    mean = randn(n_bins).double()
    logvar = randn(n_bins, seed=1).double() - 1
    q = torch.distributions.MultivariateNormal(mean, logvar.exp().diag())
    p = torch.distributions.MultivariateNormal(torch.zeros(n_bins).double(), covariance)
    wanted = torch.distributions.kl_divergence(q, p)
    draws = 200_000
    spread = (logvar / 2).exp()[:, None]
    sample = mean[:, None] + spread * torch.randn(
        n_bins, draws, generator=source(), dtype=torch.float64
    )
    each = kl_autoregressive(
        mean[:, None, None].expand(-1, draws, 1),
        logvar[:, None, None].expand(-1, draws, 1),
        sample[:, :, None],
        torch.tensor([tau]).double().log(),
        torch.tensor([noise]).double().log(),
    )
    error = each.std() / draws**0.5
    assert abs(each.mean() - wanted) < 4 * error
    assert error < 0.01 * wanted


def test_posterior_that_is_the_process_itself_diverges_by_nothing():
    sample = randn(6, 50, 2)
    log_tau, log_noise = torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 0.5])
    alpha = torch.exp(-torch.exp(-log_tau))
    mean = torch.cat([torch.zeros(1, 50, 2), alpha * sample[:-1]])
    logvar = log_noise.expand(6, 50, 2).clone()
    logvar[0] -= torch.log(1 - alpha**2)
    found = kl_autoregressive(mean, logvar, sample, log_tau, log_noise)
    torch.testing.assert_close(found, torch.zeros(50), atol=1e-5, rtol=0)


def test_ramp_rises_linearly_and_stays():
    assert [ramp(e, 80) for e in (0, 20, 80, 500)] == [0.0, 0.25, 1.0, 1.0]


# -- cells ---------------------------------------------------------------------------------------


def test_gru_step_is_that_of_torch():
    cell = nn.GRUCell(3, 5)
    x, h = randn(4, 3), randn(4, 5, seed=1)
    from_input = nn.functional.linear(x, cell.weight_ih, cell.bias_ih)
    from_state = nn.functional.linear(h, cell.weight_hh, cell.bias_hh)
    torch.testing.assert_close(gru_step(from_input, from_state, h), cell(x, h))


def test_dropout_keeps_the_mean_and_draws_from_its_own_generator():
    x, before = torch.ones(100_000), torch.random.get_rng_state()
    dropped = drop_with(0.3, source())(x)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert abs(dropped.mean() - 1) < 0.01
    assert abs((dropped == 0).float().mean() - 0.3) < 0.01
    assert drop_with(0.0, source())(x) is x


def test_rows_of_the_factors_have_norm_one_whatever_the_weights():
    model = small()
    with torch.no_grad():
        model.factors.weight.mul_(17.0)
    torch.testing.assert_close(unit_rows(model.factors.weight).norm(dim=1), torch.ones(16))
    x = torch.poisson(torch.ones(2, 9, 4), generator=source())
    one = model.decode(model.encode(x), *model.noise(9, 2)).factors
    with torch.no_grad():
        model.factors.weight.div_(5.0)
    other = model.decode(model.encode(x), *model.noise(9, 2)).factors
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("n_inputs", [0, 2])
def test_states_of_the_generator_are_clipped(n_inputs):
    model = small(n_inputs=n_inputs)
    with torch.no_grad():
        model.initial_state.weight.mul_(1e3)
        model.factors.weight.zero_()
        model.factors.weight.fill_diagonal_(1.0)  # factors are states
    posterior = model.encode(1e3 * torch.ones(3, 6, 4))
    factors = model.decode(posterior, *model.noise(6, 3, source())).factors
    assert 1 < factors.abs().max() <= model.config.state_clip


def test_weights_are_those_of_the_seed_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, same = small(), small()
    assert torch.equal(torch.random.get_rng_state(), before)
    other = LFADSModel(one.config, 4, 6, seed=2)
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    assert not torch.equal(one.factors.weight, other.factors.weight)
    assert all(bool(p.isfinite().all()) for p in one.parameters())


def test_encoders_side_by_side_are_those_of_torch():
    encoders = [nn.GRU(3, 5, bidirectional=True, dtype=torch.float64) for _ in range(2)]
    for i, encoder in enumerate(encoders):
        draw_weights(encoder, source(i))
        for j, parameter in enumerate(encoder.parameters()):
            parameter.data += 0.3 * randn(*parameter.shape, seed=j).double()
    x = randn(7, 4, 3).double().requires_grad_()
    learned = [x, *(p for encoder in encoders for p in encoder.parameters())]
    found = []
    for encode in (encode_plain, encode_side_by_side):
        states = encode(x, encoders)
        loss = sum((s * randn(*s.shape, seed=9 + i).double()).sum() for i, s in enumerate(states))
        assert isinstance(loss, torch.Tensor)
        found.append((states, torch.autograd.grad(loss, learned)))
    torch.testing.assert_close(found[0], found[1])


def test_fast_loop_is_the_plain_one():
    sizes = {"T": 6, "B": 3, "G": 5, "C": 4, "U": 2}

    def draw(i: int, *shape: str | int) -> torch.Tensor:
        known = [sizes[s] if isinstance(s, str) else s for s in shape]
        return randn(*known, seed=i).double().requires_grad_()

    noise = draw(0, "T", "B", "U").detach()
    masks = 2.0 * (draw(1, "T", "B", "G").detach() > 0)
    start = Start(draw(2, "B", "G"), draw(3, "B", "C"), draw(4, "T", "B", 12), noise, masks)
    weights = Weights(
        feedback=draw(5, "G", 12),
        control=draw(6, "C", 12),
        control_bias=draw(7, 12),
        code=draw(8, "C", 4),
        code_bias=draw(9, 4),
        given=draw(10, "U", 15),
        given_bias=draw(11, 15),
        state=draw(12, "G", 15),
        state_bias=draw(13, 15),
    )
    learned = [*start[:3], *weights]
    found = []
    for run in (run_plain, run_fast):
        path = run(start, weights)
        # Every output counts, each entry by a weight of its own.
        loss = sum((x * draw(20 + i, *x.shape).detach()).sum() for i, x in enumerate(path))
        assert isinstance(loss, torch.Tensor)
        found.append((path, torch.autograd.grad(loss, learned)))
    torch.testing.assert_close(found[0][0], found[1][0])
    for plain, fast in zip(found[0][1], found[1][1]):
        assert plain.abs().max() > 0
        torch.testing.assert_close(plain, fast)


# -- what a bin's rate may depend on -------------------------------------------------------------


def test_lagged_states_have_seen_nothing_within_the_lag():
    assert torch.equal(lag_both(randn(4, 1, 2), 0), randn(4, 1, 2))
    assert not lag_both(torch.ones(3, 1, 2), 9).any()
    model = small(input_lag=2)
    x = torch.poisson(torch.ones(1, 12, 4), generator=source()).requires_grad_()
    drive = model.encode(x).drive
    assert drive is not None
    (gradient,) = torch.autograd.grad(drive[6].square().sum(), x)
    seen = gradient[0].abs().sum(dim=1) > 0  # [T]
    assert seen.tolist() == [t <= 4 or t >= 8 for t in range(12)]


def test_rates_do_not_depend_on_a_hidden_count():
    """Of the very step that learns from it, in all units and bins at once."""
    model, config = small(4, 4), LFADSConfig.tiny()
    counts = torch.poisson(torch.ones(3, 10, 4), generator=source())
    shown, hidden = hide(counts, config.coordinated_dropout, source(5))
    changed = counts.where(~hidden, counts + 7.0)
    again, _ = hide(changed, config.coordinated_dropout, source(5))
    assert torch.equal(shown, again)
    batch = Windows(counts, counts)
    _, log_rates, scored, _ = objective(model, batch, 1.0, source(5))
    _, same, _, _ = objective(model, Windows(changed, changed), 1.0, source(5))
    assert torch.equal(scored.transpose(0, 1), hidden)
    assert torch.equal(log_rates, same)


def test_only_hidden_counts_and_held_out_units_are_learned_from():
    model = small(4, 6, dropout=0.0)
    counts = torch.poisson(torch.ones(3, 10, 6), generator=source())
    batch = Windows(counts[:, :, :4], counts)
    captured = []
    handle = model.readout.register_forward_hook(
        lambda module, args, out: (out.retain_grad(), captured.append(out))[0]
    )
    loss, _, hidden, _ = objective(model, batch, 0.0, source(3))
    handle.remove()
    loss.backward()
    gradient = captured[0].grad  # [T, B, n_targets]
    assert torch.equal(gradient != 0, hidden)
    assert hidden[:, :, 4:].all()
    assert 0.1 < hidden[:, :, :4].float().mean() < 0.5
    wanted = (captured[0].exp() - counts.transpose(0, 1)) / counts.numel()
    torch.testing.assert_close(gradient[hidden], wanted[hidden])


def test_kept_counts_are_scaled_so_that_sums_keep_their_mean():
    x = torch.full((200_000,), 2.0)
    shown, hidden = hide(x, 0.3, source())
    assert abs(shown.mean() - 2) < 0.02
    assert set(shown.tolist()) == {0.0, np.float32(2 / 0.7).item()}
    assert not shown[hidden].any()


def test_validation_hides_each_count_once_and_cannot_be_won_by_copying():
    parts = hidden_parts(torch.Size([5, 8, 3]), 0.3, source())
    assert (torch.stack(parts).sum(dim=0) == 1).all()
    assert torch.equal(
        hide_where(torch.ones(4), torch.tensor([True, False, True, False])),
        torch.tensor([0.0, 2.0, 0.0, 2.0]),
    )

    class Copy:
        config = LFADSConfig.tiny()

        def noise(self, n_bins, n):
            return ()

        def encode(self, x):
            return x

        def decode(self, x):
            return type("Output", (), {"log_rates": (x + 1e-3).log().transpose(0, 1)})

    counts = torch.poisson(torch.ones(6, 8, 3), generator=source())
    windows, means = Windows(counts, counts), counts.mean(dim=(0, 1))
    parts = training._parts(windows, 0.3, 0)
    copier: LFADSModel = Copy()  # type: ignore[assignment]
    assert training.validation_bits(copier, windows, means, []) > 0.5
    assert training.validation_bits(copier, windows, means, parts) < 0.0


def test_regularisers_ramp_and_recurrent_weights_are_penalised():
    model, counts = small(4, 4, l2=3.0), torch.ones(2, 6, 4)
    off = objective(model, Windows(counts, counts), 0.0, source())[0]
    on = objective(model, Windows(counts, counts), 0.5, source())
    wanted = 0.5 * (1e-7 * on[3] + 3.0 * model.recurrent_square())
    torch.testing.assert_close(on[0] - off, wanted, atol=1e-6, rtol=1e-4)
    weights = [p for n, p in model.named_parameters() if "weight_hh" in n]
    assert len(weights) == 6  # two encoders of two directions, controller, generator
    flat = torch.cat([w.flatten() for w in weights])
    torch.testing.assert_close(model.recurrent_square(), 0.5 * flat.square().mean())


# -- windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "overlap"), [(7, 0), (7, 3), (10, 9), (23, 5)])
def test_chopped_and_merged_rows_are_what_they_were(window, overlap):
    values = randn(61, 3).numpy()
    trials = [slice(0, 23), slice(23, 24), slice(24, 61)]
    windows = [piece for rows in trials for piece in chop(rows, window, overlap)]
    assert all(w.stop - w.start <= window for w in windows)
    merged = merge(windows, [values[w] for w in windows], 61)
    assert merged.dtype == np.float32
    np.testing.assert_array_equal(merged, values)


def test_windows_overlap_at_least_as_asked_and_stay_in_their_trial():
    windows = chop(slice(5, 105), 30, 10)
    assert windows[0].start == 5
    assert windows[-1].stop == 105
    assert all(b.start <= a.stop - 10 for a, b in itertools.pairwise(windows))
    assert {w.stop - w.start for w in windows} == {30}


def test_whole_trials_are_the_windows_where_they_fit():
    assert window_length([40, 40, 40]) == 40
    assert window_length([40, 30]) == 30
    assert window_length([9000]) == 150


# -- the method ----------------------------------------------------------------------------------


def fitted(**changes) -> tuple[LFADS, np.ndarray, np.ndarray]:
    counts, trials = poisson(120, 6), np.repeat(np.arange(12), 10)
    method = LFADS(config=LFADSConfig.tiny(**QUICK | changes), n_components=3, device="cpu")
    return method.fit(counts[:, :4], trials, targets=counts), counts, trials


def test_shapes_and_units_of_what_comes_out():
    method, counts, trials = fitted()
    x = counts[:, :4]
    assert method.transform(x, trials).shape == (120, 3)
    rates, reconstruction = method.rates(x, trials), method.reconstruct(x, trials)
    assert rates.shape == (120, 6)
    assert rates.dtype == reconstruction.dtype == np.float32
    assert (rates > 0).all()
    np.testing.assert_array_equal(reconstruction, rates[:, :4])
    assert list(method.history.columns) == [
        "train_bits",
        "validation_bits",
        "smoothed_bits",
        "kl",
        "learning_rate",
        "best",
    ]
    assert method.history["best"].to_numpy().sum() == 1


def test_same_seed_same_numbers_and_the_global_generator_is_left_alone():
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    (one, counts, trials), (same, _, _) = fitted(), fitted()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    x = counts[:, :4]
    np.testing.assert_array_equal(one.transform(x, trials), same.transform(x, trials))
    np.testing.assert_array_equal(one.transform(x, trials), one.transform(x, trials))
    other = LFADS(config=one.config, random_state=1, device="cpu").fit(x, trials, targets=counts)
    assert np.abs(other.rates(x, trials) - one.rates(x, trials)).max() > 1e-3


def test_a_trial_comes_out_the_same_whatever_stands_beside_it():
    method, counts, trials = fitted()
    x = counts[:, :4]
    alone = method.rates(x[30:40], trials[30:40])
    np.testing.assert_allclose(method.rates(x, trials)[30:40], alone, rtol=1e-5)


def test_unequal_trials_and_one_stretch_are_chopped():
    counts = poisson(300, 4)
    trials = np.repeat(np.arange(6), [30, 50, 60, 70, 40, 50])
    config = LFADSConfig.tiny(**QUICK)
    method = LFADS(config=config, device="cpu").fit(counts, trials)
    assert method._window == 30
    assert method.transform(counts, trials).shape == (300, 16)
    short = method.reconstruct(counts[:7], trials[:7])
    assert np.isfinite(short).all()
    stretch = LFADS(config=LFADSConfig.tiny(**QUICK, window_bins=20), device="cpu").fit(counts)
    assert stretch.reconstruct(counts).shape == (300, 4)


def test_validation_trials_are_not_learned_from():
    """Other counts in validation trials change which epoch is best, and nothing before."""
    counts, trials = poisson(120, 4), np.repeat(np.arange(12), 10)
    marked = trials >= 9
    changed = np.where(marked[:, None], poisson(120, 4, seed=1), counts)
    histories = [
        LFADS(config=LFADSConfig.tiny(**QUICK), device="cpu")
        .fit(values, trials, validation=marked)
        .history
        for values in (counts, changed)
    ]
    assert histories[0]["train_bits"].equals(histories[1]["train_bits"])
    assert not histories[0]["validation_bits"].equals(histories[1]["validation_bits"])


def test_the_best_epoch_is_kept_and_patience_ends_training():
    counts, trials = poisson(200, 4, mean=0.5), np.repeat(np.arange(20), 10)
    config = LFADSConfig.tiny(max_epochs=60, patience=5, batch_size=16, lr_patience=2)
    method = LFADS(config=config, device="cpu").fit(counts, trials)
    history = method.history
    best = int(history["best"].to_numpy().argmax())
    assert best == history["smoothed_bits"].to_numpy().argmax()
    # Counts without structure: nothing to find, so the search has to end early.
    assert len(history) == best + 1 + 5 < 60
    assert history["learning_rate"].iloc[-1] == pytest.approx(4e-3 * 0.95**2)
    assert method.fit_messages == ()
    assert "ended at max_epochs = 2" in fitted()[0].fit_messages[0]


def test_saved_and_loaded_it_gives_the_same_numbers(tmp_path):
    method, counts, trials = fitted()
    path = method.save(tmp_path / "lfads")
    method.save(path)
    same = LFADS.load(path, device="cpu")
    assert same.config == method.config
    x = counts[:, :4]
    np.testing.assert_array_equal(same.rates(x, trials), method.rates(x, trials))
    assert list(same.history["best"]) == list(method.history["best"])
    assert [p.name for p in tmp_path.iterdir()] == ["lfads"]

    (path / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="damaged"):
        LFADS.load(path)
    settings = json.loads((path / "config.json").read_text()) | {"format": "other"}
    (path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="format 'other'"):
        LFADS.load(path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(CheckpointError, match="no saved LFADS"):
        method.save(tmp_path / "mine")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        LFADS.load(tmp_path / "mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 1.0}, "below 1"),
        ({"n_factors": 0}, "at least 1"),
        ({"n_factors": 2.0}, "whole number"),
        ({"n_inputs": True}, "whole number"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"learning_rate": float("nan")}, "finite"),
        ({"kl_inputs": -1.0}, "at least 0"),
        ({"window_bins": 5, "overlap_bins": 5}, "below window_bins"),
        ({"min_learning_rate": 1.0}, "at most learning_rate"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        LFADSConfig(**changes)


def test_settings_make_the_round_trip_and_unknown_ones_are_refused():
    config = LFADSConfig.compact(n_inputs=1)
    assert LFADSConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="no setting 'factors'"):
        LFADSConfig.from_dict({"factors": 3})


def test_what_cannot_be_used_is_refused():
    counts, trials = poisson(60, 4), np.repeat(np.arange(6), 10)
    config = LFADSConfig.tiny(**QUICK)
    method = LFADS(config=config, device="cpu")
    with pytest.raises(DataError, match="fitted"):
        method.transform(counts, trials)
    with pytest.raises(DataError, match="fitted"):
        method.save("nowhere")
    with pytest.raises(DataError, match="begin with the columns of x"):
        method.fit(counts[:, :2], trials, targets=counts[:, ::-1])
    with pytest.raises(DataError, match="a trial has 10 bins, a window 20"):
        LFADS(config=LFADSConfig.tiny(window_bins=20), device="cpu").fit(counts, trials)
    with pytest.raises(DataError, match="divides trial 2"):
        method.fit(counts, trials, validation=np.arange(60) < 25)
    with pytest.raises(DataError, match="6 of 6 trials are for validation"):
        method.fit(counts, trials, validation=np.ones(60, bool))
    with pytest.raises(DataError, match="one boolean"):
        method.fit(counts, trials, validation=np.ones(5, bool))
    with pytest.raises(DataError, match="units have no spike in the validation trials"):
        method.fit(counts * (trials < 4)[:, None], trials, validation=trials >= 4)
    silent = np.hstack([counts, np.zeros((60, 1))])
    with pytest.raises(DataError, match="held-out units have no spike in the training trials"):
        method.fit(counts, trials, targets=silent)
    with pytest.raises(EnvironmentProblem, match="nonsense"):
        LFADS(config=config, device="nonsense").fit(counts, trials)


def test_a_loss_that_is_not_finite_stops_training():
    counts, trials = poisson(60, 4), np.repeat(np.arange(6), 10)
    counts[3] = 1e30
    with pytest.raises(TrainingError, match=r"epoch 0.*learning_rate"):
        LFADS(config=LFADSConfig.tiny(**QUICK), device="cpu").fit(counts, trials)


def oscillators(n_trials: int, n_bins: int, n_units: int, seed: int):
    """Trials of a plane that rotates from a phase of their own; units follow it through exp."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, n_trials)[:, None] + 0.35 * np.arange(n_bins)
    plane = np.stack([np.cos(phase), np.sin(phase)], axis=2).reshape(-1, 2)
    rates = np.exp(plane @ rng.normal(0, 1.0, (2, n_units)) - 1.5)
    return rng.poisson(rates).astype(float), rates, np.repeat(np.arange(n_trials), n_bins)


def test_trained_on_oscillators_it_is_closer_to_the_rates_than_smoothing():
    counts, rates, trials = oscillators(160, 30, 12, seed=2)
    config = LFADSConfig.tiny(max_epochs=40, learning_rate=1e-2, n_inputs=0, ramp_epochs=10)
    train, test = trials < 120, trials >= 120
    method = LFADS(config=config, device="cpu").fit(counts[train], trials[train])

    def error(found):
        return np.square(found - rates[test]).mean() / rates[test].var(axis=0).mean()

    found = error(method.reconstruct(counts[test], trials[test]))
    smooth = [
        error(
            GaussianSmoothing(sigma_s=s, bin_size_s=1.0)
            .fit(counts[train])
            .transform(counts[test], trials[test])
        )
        for s in (0.5, 1, 2, 3, 5)
    ]
    assert found < 0.6 * min(smooth)


def test_rates_at_the_mean_of_the_posterior_need_no_draw():
    model = small()
    x = torch.poisson(torch.ones(2, 5, 4), generator=source())
    with torch.no_grad():
        assert torch.equal(mean_path_rates(model, x), mean_path_rates(model, x))
        posterior = model.encode(x)
        assert isinstance(posterior, Posterior)
        drawn = model.decode(posterior, *model.noise(5, 2, source())).log_rates.exp()
    assert not torch.equal(drawn.transpose(0, 1), mean_path_rates(model, x))
