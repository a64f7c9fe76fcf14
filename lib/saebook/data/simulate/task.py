"""The delayed centre-out reach: trial structure and hand kinematics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

RETURN_WAIT_S = 0.3
RETURN_S = 0.6
CONSUME_S = 0.5
FIRST_TRIAL_S = 1.0


@dataclass(frozen=True)
class ReachTask:
    """Timing and geometry of the task; the defaults follow Churchland et al. (2012) in style.

    Attributes
    ----------
    n_targets
        Targets, evenly spaced on a circle of radius `reach_m`.
    hold_s, final_hold_s
        Holding the centre before the target appears, and the target after the reach, s.
    delay_s
        Limits of the uniform delay between target and go cue, s.
    reaction_s, reaction_sd_s
        Mean and standard deviation of the time between go cue and movement onset, s.
    reach_m, reach_s
        Length of the reach, m, and its duration at vigour 1, s.
    vigour_cv
        Coefficient of variation of the vigour, the peak speed relative to its mean.
    pause_s
        Limits of the uniform pause after the outcome, s; the hand goes home in it.
    error_fraction
        Share of trials in which the hand goes to a target next to the right one.
    """

    n_targets: int = 8
    hold_s: float = 0.5
    delay_s: tuple[float, float] = (0.0, 1.0)
    reaction_s: float = 0.25
    reaction_sd_s: float = 0.04
    reach_m: float = 0.1
    reach_s: float = 0.4
    vigour_cv: float = 0.1
    final_hold_s: float = 0.5
    pause_s: tuple[float, float] = (1.0, 2.0)
    error_fraction: float = 0.1

    @property
    def peak_speed(self) -> float:
        """Peak hand speed of a reach of vigour 1, m/s."""
        return 1.875 * self.reach_m / self.reach_s


def minimum_jerk(tau: np.ndarray) -> np.ndarray:
    """Return the fraction of the way covered at a fraction `tau` of the movement's duration.

    Parameters
    ----------
    tau
        Time since onset over duration, any shape; clipped to [0, 1].

    Source
    ------
    Flash and Hogan (1985), Journal of Neuroscience 5, 1688: 10τ³ - 15τ⁴ + 6τ⁵.

    Examples
    --------
    >>> minimum_jerk(np.array([-1.0, 0.0, 0.5, 1.0, 2.0])).tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    tau = np.clip(tau, 0.0, 1.0)
    return tau**3 * (10.0 - 15.0 * tau + 6.0 * tau**2)


def minimum_jerk_speed(tau: np.ndarray) -> np.ndarray:
    """Return the derivative of `minimum_jerk` with respect to `tau` (0 outside [0, 1]).

    Examples
    --------
    >>> minimum_jerk_speed(np.array([0.0, 0.5, 1.0])).tolist()
    [0.0, 1.875, 0.0]
    """
    tau = np.clip(tau, 0.0, 1.0)
    return 30.0 * (tau * (1.0 - tau)) ** 2


def draw_trials(task: ReachTask, n_trials: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw the events of a session.

    Parameters
    ----------
    task
        Timing and geometry.
    n_trials
        Number of trials. Targets come in shuffled blocks, so their counts differ by at most one.
    rng
        Source of randomness.

    Returns
    -------
    DataFrame
        One row per trial: times in s on the session's clock (`start_time`, `target_on_time`,
        `go_time`, `movement_onset_time`, `movement_end_time`, `outcome_time`, `stop_time`, and
        `next_time`, where the pause ends), `delay_s`, `reaction_s`, `movement_s`, `vigour`,
        `target` (0 to n_targets - 1), `direction` and `reach_direction` (of the target and of
        the reach, rad in (-π, π]) and `outcome` ("correct" or "error").

    Examples
    --------
    >>> trials = draw_trials(ReachTask(), 20, np.random.default_rng(0))
    >>> (trials.outcome == "error").sum(), trials.target.value_counts().max()
    (np.int64(2), np.int64(3))
    """
    n_blocks = -(-n_trials // task.n_targets)
    blocks = [rng.permutation(task.n_targets) for _ in range(n_blocks)]
    target = np.concatenate(blocks)[:n_trials]
    delay = rng.uniform(*task.delay_s, n_trials)
    # A reaction under 0.1 s would be a guess, not a response to the cue.
    reaction = np.maximum(rng.normal(task.reaction_s, task.reaction_sd_s, n_trials), 0.1)
    vigour = np.clip(rng.normal(1.0, task.vigour_cv, n_trials), 0.6, 1.4)
    pause = rng.uniform(*task.pause_s, n_trials)
    is_error = np.zeros(n_trials, bool)
    n_errors = round(task.error_fraction * n_trials)
    is_error[rng.choice(n_trials, n_errors, replace=False)] = True
    reached = np.where(is_error, target + rng.choice([-1, 1], n_trials), target) % task.n_targets

    duration = task.reach_s / vigour
    target_on = np.full(n_trials, task.hold_s)
    go = target_on + delay
    onset = go + reaction
    end = onset + duration
    outcome = end + task.final_hold_s
    length = outcome + pause
    start = FIRST_TRIAL_S + np.concatenate([[0.0], np.cumsum(length)[:-1]])
    return pd.DataFrame(
        {
            "start_time": start,
            "target_on_time": start + target_on,
            "go_time": start + go,
            "movement_onset_time": start + onset,
            "movement_end_time": start + end,
            "outcome_time": start + outcome,
            "stop_time": start + outcome + CONSUME_S,
            "next_time": start + length,
            "delay_s": delay,
            "reaction_s": reaction,
            "movement_s": duration,
            "vigour": vigour,
            "target": target,
            "direction": _angle(target, task.n_targets),
            "reach_direction": _angle(reached, task.n_targets),
            "outcome": np.where(is_error, "error", "correct"),
        }
    )


def trial_at(trials: pd.DataFrame, times: np.ndarray) -> np.ndarray:
    """Return the row of the last trial begun at each time (0 before the first) [n], int.

    Examples
    --------
    >>> trial_at(pd.DataFrame({"start_time": [1.0, 4.0]}), np.array([0.0, 1.0, 5.0])).tolist()
    [0, 0, 1]
    """
    found = np.searchsorted(trials["start_time"].to_numpy(), times, side="right") - 1
    return np.maximum(found, 0)


def hand(
    task: ReachTask, trials: pd.DataFrame, trial: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return position, m, and velocity, m/s, of the hand, each [n, 2].

    Both the reach and the way home follow the minimum-jerk profile.

    Parameters
    ----------
    task, trials
        As given to and returned by `draw_trials`.
    trial
        Row of `trials` that each time belongs to [n], int.
    times
        Times [n], s.
    """
    onset = trials["movement_onset_time"].to_numpy()[trial]
    duration = trials["movement_s"].to_numpy()[trial]
    home = trials["outcome_time"].to_numpy()[trial] + RETURN_WAIT_S
    angle = trials["reach_direction"].to_numpy()[trial]
    out, back = (times - onset) / duration, (times - home) / RETURN_S
    along = task.reach_m * (minimum_jerk(out) - minimum_jerk(back))
    speed = task.reach_m * (
        minimum_jerk_speed(out) / duration - minimum_jerk_speed(back) / RETURN_S
    )
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # [n, 2]
    return along[:, None] * unit, speed[:, None] * unit


def _angle(target: np.ndarray, n_targets: int) -> np.ndarray:
    angle = 2.0 * np.pi * target / n_targets
    return np.where(angle > np.pi, angle - 2.0 * np.pi, angle)
