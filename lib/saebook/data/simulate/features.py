"""Latent features of the reach: what is true of the session, sparse and nonnegative."""

from __future__ import annotations

import numpy as np
import pandas as pd

from saebook.data.simulate.task import RETURN_S, RETURN_WAIT_S, ReachTask, hand, trial_at

LEAD_S = 0.1
LEAD_SD_S = 0.02
CONCENTRATION = 4.0
AROUSAL_TAU_S = 30.0
OSCILLATION_HZ = 3.0

TASK_FEATURES = (
    *(f"prepare_{angle:03d}" for angle in range(0, 360, 45)),
    *(f"move_{angle:03d}" for angle in range(0, 360, 45)),
    "speed",
    "hold",
    "target_on",
    "go",
    "movement_onset",
    "reward",
    "error",
    "left",
    "fast_left",
    "waiting",
    "long_wait",
)
DISTRACTORS = ("arousal", "oscillation", "pair_a", "pair_b", "silent")
REACH_FEATURES = TASK_FEATURES + DISTRACTORS
# A narrow feature that is only ever active while its broad one is.
NESTED_PAIRS = (("left", "fast_left"), ("waiting", "long_wait"))


def feature_names(n_features: int) -> tuple[str, ...]:
    """Return the names of the first `n_features` features.

    Beyond the 32 of the reach come events that are independent of the task, for sessions with
    more features than units.

    Examples
    --------
    >>> len(REACH_FEATURES), feature_names(34)[-3:]
    (32, ('silent', 'event_00', 'event_01'))
    """
    extra = n_features - len(REACH_FEATURES)
    return REACH_FEATURES + tuple(f"event_{i:02d}" for i in range(extra))


def smooth_step(x: np.ndarray) -> np.ndarray:
    """Rise from exactly 0 at x = 0 to exactly 1 at x = 1, flat at both ends.

    Examples
    --------
    >>> smooth_step(np.array([-1.0, 0.0, 0.5, 1.0, 3.0])).tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def direction_tuning(difference: np.ndarray, concentration: float = CONCENTRATION) -> np.ndarray:
    """Von Mises bump over a difference of angles, 1 at 0 and exactly 0 from 90° on.

    Parameters
    ----------
    difference
        Angle from the preferred direction, rad.
    concentration
        κ of the bump. Its value at 90° is subtracted, which makes the feature sparse.

    Examples
    --------
    >>> direction_tuning(np.deg2rad([0.0, 45.0, 90.0, 180.0])).round(3).tolist()
    [1.0, 0.297, 0.0, 0.0]
    """
    floor = np.exp(-concentration)
    bump = np.exp(concentration * (np.cos(difference) - 1.0))
    tuning = (bump - floor) / (1.0 - floor)
    return np.where(tuning > 1e-12, tuning, 0.0)


def reach_features(
    task: ReachTask,
    trials: pd.DataFrame,
    times: np.ndarray,
    names: tuple[str, ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the features at each time [n, n_features], float32, about 1 at their peak.

    Those of movement lead the hand by 100 ms, with a jitter of 20 ms from trial to trial.

    Parameters
    ----------
    task, trials
        As given to and returned by `task.draw_trials`.
    times
        Regular grid [n], s.
    names
        From `feature_names`.
    rng
        Source of the lead jitter and of the distractors.
    """
    trial = trial_at(trials, times)
    lead = np.maximum(rng.normal(LEAD_S, LEAD_SD_S, len(trials)), 0.0)
    data = np.zeros((len(times), len(names)), np.float32, order="F")
    column = {name: i for i, name in enumerate(names)}
    for name, values in _task_features(task, trials, trial, times, times + lead[trial]):
        data[:, column[name]] = values
    for name, values in _distractors(times, rng):
        data[:, column[name]] = values
    for name in names[len(REACH_FEATURES) :]:
        onsets = _poisson_times(rng.uniform(0.1, 0.3), times, rng)
        data[:, column[name]] = _pulses(times, onsets, rng.uniform(0.15, 0.6))
    return data


def _task_features(task, trials, trial, times, ahead):
    event = {
        name: trials[f"{name}_time"].to_numpy()[trial]
        for name in ("start", "target_on", "go", "movement_onset", "movement_end", "outcome")
    }
    planned = trials["direction"].to_numpy()[trial]
    reached = trials["reach_direction"].to_numpy()[trial]
    correct = (trials["outcome"].to_numpy() == "correct")[trial]
    vigour = trials["vigour"].to_numpy()
    fast = (vigour > np.quantile(vigour, 2.0 / 3.0))[trial]
    onset, end, outcome = event["movement_onset"], event["movement_end"], event["outcome"]
    home = outcome + RETURN_WAIT_S

    # Plans rise after the target and give way to movement, on the clock of the lead.
    plan = smooth_step((times - event["target_on"] - 0.05) / 0.1)
    plan = plan * (1.0 - smooth_step((ahead - onset) / 0.1))
    out = _plateau(ahead, onset, end, 0.06, 0.06)
    back = _plateau(ahead, home, home + RETURN_S, 0.06, 0.06)
    for k in range(8):
        preferred = k * np.pi / 4.0
        yield f"prepare_{k * 45:03d}", plan * direction_tuning(planned - preferred)
        movement = out * direction_tuning(reached - preferred)
        movement += back * direction_tuning(reached + np.pi - preferred)
        yield f"move_{k * 45:03d}", movement

    _, velocity = hand(task, trials, trial, ahead)
    yield "speed", np.hypot(*velocity.T) / task.peak_speed
    hold = _plateau(times, event["start"], event["target_on"], 0.08, 0.05)
    yield "hold", hold + _plateau(times, end, outcome, 0.08, 0.05)
    yield "target_on", _pulse(times - event["target_on"], 0.05, 0.2)
    yield "go", _pulse(times - event["go"], 0.04, 0.16)
    yield "movement_onset", _pulse(ahead - onset, -0.08, 0.16)
    yield "reward", correct * _pulse(times - outcome, 0.08, 0.35)
    yield "error", ~correct * _pulse(times - outcome, 0.08, 0.35)
    # Longer than the movement, else it would be a sum of directions at every moment.
    left = _plateau(ahead, onset - 0.1, end + 0.2, 0.1, 0.15)
    left = left * np.maximum(-np.cos(reached), 0.0) * (np.cos(reached) < -0.1)
    yield "left", left
    yield "fast_left", left * fast
    waiting = 1.0 - smooth_step((times - event["go"]) / 0.05)
    since = times - event["target_on"]
    yield "waiting", waiting * smooth_step((since - 0.1) / 0.1)
    yield "long_wait", waiting * smooth_step((since - 0.5) / 0.1)


def _distractors(times, rng):
    yield "arousal", np.clip(_slow_drift(times, rng) / 2.0, 0.0, 1.0)
    yield "oscillation", _bursts(times, rng)
    both, only_a, only_b = (_poisson_times(rate, times, rng) for rate in (0.2, 0.025, 0.025))
    yield "pair_a", _pulses(times, np.sort(np.r_[both, only_a]), 0.3)
    yield "pair_b", _pulses(times, np.sort(np.r_[both, only_b]), 0.3)
    yield "silent", np.zeros(len(times))


def _slow_drift(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Standard AR(1) of `AROUSAL_TAU_S`, stepped every 0.1 s and interpolated."""
    from scipy.signal import lfilter

    step = 0.1
    knots = np.arange(times[0], times[-1] + 2 * step, step)
    keep = np.exp(-step / AROUSAL_TAU_S)
    noise = rng.standard_normal(len(knots))
    noise[1:] *= np.sqrt(1.0 - keep**2)
    return np.interp(times, knots, lfilter([1.0], [1.0, -keep], noise))


def _bursts(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half-wave rectified oscillation in bursts of some 2 s, a quarter of the time."""
    envelope = np.zeros(len(times))
    start = times[0] + rng.exponential(6.0)
    while start < times[-1]:
        length = rng.uniform(1.5, 3.0)
        at = slice(*np.searchsorted(times, [start - 0.1, start + length + 0.3]))
        envelope[at] = _plateau(times[at], start, start + length, 0.2, 0.2)
        start += length + 0.3 + rng.exponential(6.0)
    phase = rng.uniform(0.0, 2.0 * np.pi)
    wave = np.cos(2.0 * np.pi * OSCILLATION_HZ * times + phase)
    return envelope * np.maximum(wave, 0.0)


def _poisson_times(rate_hz: float, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = rng.poisson(rate_hz * (times[-1] - times[0]))
    return np.sort(rng.uniform(times[0], times[-1], n))


def _pulses(times: np.ndarray, onsets: np.ndarray, width_s: float) -> np.ndarray:
    """Raised-cosine pulses; where two overlap, the larger one counts."""
    values = np.zeros(len(times))
    first, last = (np.searchsorted(times, edge) for edge in (onsets, onsets + width_s))
    for onset, i, j in zip(onsets, first, last):
        values[i:j] = np.maximum(values[i:j], _pulse(times[i:j] - onset, 0.0, width_s))
    return values


def _pulse(since: np.ndarray, start: float, width_s: float) -> np.ndarray:
    phase = np.clip((since - start) / width_s, 0.0, 1.0)
    return np.where((phase > 0.0) & (phase < 1.0), 0.5 - 0.5 * np.cos(2.0 * np.pi * phase), 0.0)


def _plateau(times, start, stop, rise: float, fall: float) -> np.ndarray:
    return smooth_step((times - start) / rise) * (1.0 - smooth_step((times - stop) / fall))
