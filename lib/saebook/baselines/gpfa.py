"""Gaussian-process factor analysis of elephant: smooth factors, trial by trial."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from saebook.baselines.count_scale import CountScale
from saebook.baselines.method import (
    Method,
    Trials,
    check_dimensions,
    import_package,
    split_trials,
)
from saebook.baselines.seeding import seeded_numpy
from saebook.baselines.spike_trains import spike_trains
from saebook.errors import ConfigError, DataError

# Inference inverts matrices [x_dim · n_bins] square, of which some four are held at a time.
LARGEST_MATRIX = 10_000
# Bins that the package fits on at a time.
PIECE = 20
# The first three become messages of the fit; the last is between two of the package's own parts.
EXPECTED_WARNINGS = (
    "shorter than one segLength",
    "No segments extracted",
    "variance floor",
    "The 'copy' argument in Quantity",
)


class GPFA(Method):
    """Gaussian-process factor analysis: factors that are smooth in time (elephant).

    Latents are the package's orthonormalised trajectories, posterior means given the whole
    trial. The package takes square roots of the counts; the reconstruction squares what the
    model expects of them and adds their variance (see
    :class:`~saebook.baselines.count_scale.CountScale`). `components` are in roots of counts.

    Parameters
    ----------
    x_dim
        Dimensions.
    random_state
        Seed. Of trials longer than two pieces (see Notes) the pieces overlap by random amounts.
    bin_size_s
        Width of a bin, s.
    tau_init_s
        Time scale that all factors start from, s. Each is then fitted.
    eps_init
        Variance of the Gaussian processes' own noise; it stays as it is.
    min_var_frac
        Least private variance of a unit, as a share of its variance.
    em_tol, em_max_iters, freq_ll
        Where the expectation-maximisation ends, and how often the likelihood is computed;
        `fit_messages` say whether it ended by itself.
    progress
        Show iterations and the log-likelihood per bin.

    Raises
    ------
    ConfigError
        A time that is not a finite number above 0.
    DataError
        On fitting, also: counts that are not whole, too few units that spike, units that are
        copies or sums of each other. Where latents are asked for: a trial so long that its
        matrix would not fit in memory.

    Notes
    -----
    The package wants spike trains: each count becomes as many spikes at the middle of its bin,
    which its own binning gives back exactly. It fits on pieces of 20 bins: where some trials are
    shorter they are left out of the fit (and `fit_messages` say how many), and where all are,
    whole trials are used. Units that are silent in the trials of the fit are left out; their
    expected count is 0.

    References
    ----------
    Yu et al. 2009, "Gaussian-process factor analysis for low-dimensional single-trial analysis
    of neural population activity".

    Examples
    --------
    >>> drive = 1.5 + np.sin(np.arange(80) / 5)
    >>> counts = np.random.default_rng(0).poisson(np.outer(drive, [1, 2, 1, 3]))
    >>> gpfa = GPFA(x_dim=1, bin_size_s=0.05, em_max_iters=5).fit(counts)
    >>> bool(abs(np.corrcoef(gpfa.transform(counts)[:, 0], drive)[0, 1]) > 0.9)
    True
    """

    name: ClassVar[str] = "GPFA"
    temporal: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True
    dimension: ClassVar[str | None] = "x_dim"
    estimator: Any = None

    def __init__(
        self,
        *,
        x_dim: int = 8,
        random_state: int = 0,
        bin_size_s: float = 0.05,
        tau_init_s: float = 0.1,
        eps_init: float = 1e-3,
        min_var_frac: float = 0.01,
        em_tol: float = 1e-8,
        em_max_iters: int = 500,
        freq_ll: int = 5,
        progress: bool = False,
    ) -> None:
        for key, value in (("bin_size_s", bin_size_s), ("tau_init_s", tau_init_s)):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{key}={value}: give a number of seconds above 0")
        self.x_dim, self.random_state = x_dim, random_state
        self.bin_size_s, self.tau_init_s = bin_size_s, tau_init_s
        self.eps_init, self.min_var_frac, self.em_tol = eps_init, min_var_frac, em_tol
        self.em_max_iters, self.freq_ll, self.progress = em_max_iters, freq_ll, progress

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        check_dimensions(self.x_dim, x, name="x_dim")
        x, trials, left_out = _with_long_trials(x, trials)
        n_spiking = int(x.any(axis=0).sum())
        if n_spiking < self.x_dim:
            raise DataError(
                f"x_dim={self.x_dim}, but only {n_spiking} of {x.shape[1]} units spike: ask for "
                f"at most {n_spiking}"
            )
        self._check_lengths(trials)
        pq = import_package("quantities")
        self.estimator = import_package("elephant.gpfa").GPFA(
            x_dim=self.x_dim,
            bin_size=self.bin_size_s * 1000 * pq.ms,
            tau_init=self.tau_init_s * 1000 * pq.ms,
            eps_init=self.eps_init,
            min_var_frac=self.min_var_frac,
            em_tol=self.em_tol,
            em_max_iters=self.em_max_iters,
            freq_ll=self.freq_ll,
        )
        trains = spike_trains(x, trials, self.bin_size_s)
        with _quiet() as warned, self._bar(len(x)), seeded_numpy(self.random_state):
            try:
                self.estimator.fit(trains)
            except ValueError as error:
                if "rank deficient" not in str(error):
                    raise
                raise DataError(
                    f"counts of the {n_spiking} units that spike, over {len(x)} bins, are not "
                    "linearly independent: leave out copies of units, or give more bins"
                ) from error
        self.fit_messages = (*left_out, *self._messages(warned))
        roots = self._roots(self._trajectories(trains))
        self.components = np.zeros((self.x_dim, x.shape[1]))
        self.components[:, self.estimator.has_spikes_bool] = self._loadings().T
        self._scale = CountScale("sqrt")
        self._scale.calibrate(x, roots)

    def _transform(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        self._check_lengths(trials)
        return self._trajectories(spike_trains(x, trials, self.bin_size_s))

    def _reconstruct(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        return self._scale.counts(self._roots(self._transform(x, trials)))

    def _trajectories(self, trains: list[list[Any]]) -> np.ndarray:
        with _quiet():
            per_trial = self.estimator.transform(trains)  # of each trial [x_dim, n_bins]
        return np.hstack(list(per_trial)).T

    def _loadings(self) -> np.ndarray:
        return self.estimator.transform_info["Corth"]  # [n_spiking, x_dim]

    def _roots(self, latents: np.ndarray) -> np.ndarray:
        """Square roots of counts that the model expects [n, n_units]."""
        active = self.estimator.has_spikes_bool
        roots = np.zeros((len(latents), len(active)))
        roots[:, active] = latents @ self._loadings().T + self.estimator.params_estimated["d"]
        return roots

    def _check_lengths(self, trials: Trials) -> None:
        number, rows = max(trials.items(), key=lambda item: item[1].stop - item[1].start)
        longest = rows.stop - rows.start
        if self.x_dim * longest > LARGEST_MATRIX:
            raise DataError(
                f"trial {number} has {longest} bins: GPFA inverts a matrix of {self.x_dim} times "
                f"as many rows, {LARGEST_MATRIX} at most; cut it into pieces of at most "
                f"{LARGEST_MATRIX // self.x_dim} bins, each with a trial number of its own"
            )

    def _messages(self, warned: list[str]) -> tuple[str, ...]:
        none_long = any("No segments extracted" in text for text in warned)
        floor = any("variance floor" in text for text in warned)
        n_iterations = len(self.estimator.fit_info["log_likelihoods"])
        known = {
            f"all trials are under {PIECE} bins: they were used whole": none_long,
            "private variances of some units are at their floor (min_var_frac)": floor,
            f"EM ended at em_max_iters={self.em_max_iters}, unconverged": (
                n_iterations >= self.em_max_iters
            ),
        }
        return tuple(text for text, holds in known.items() if holds)

    @contextlib.contextmanager
    def _bar(self, n_bins: int) -> Iterator[None]:
        """A bar that counts the package's E-steps: it shows none itself without printing lines."""
        from tqdm.auto import tqdm

        if not self.progress:
            yield
            return
        core = import_package("elephant.gpfa.gpfa_core")
        step = core.exact_inference_with_ll
        with tqdm(total=self.em_max_iters, desc="GPFA", unit="iteration") as bar:

            def counted(*args: Any, **kwargs: Any) -> Any:
                latents, log_likelihood = step(*args, **kwargs)
                if not np.isnan(log_likelihood):
                    bar.set_postfix(log_likelihood=f"{log_likelihood / n_bins:.4f} per bin")
                bar.update()
                return latents, log_likelihood

            core.exact_inference_with_ll = counted
            try:
                yield
            finally:
                core.exact_inference_with_ll = step


def _with_long_trials(x: np.ndarray, trials: Trials) -> tuple[np.ndarray, Trials, tuple[str, ...]]:
    """Rows of the trials that the package fits on, and what that leaves out.

    It drops short trials only after it has chosen the units that spike: one that spikes in those
    alone would be left with no variance, and make the likelihood infinite.
    """
    long = {number: rows for number, rows in trials.items() if rows.stop - rows.start >= PIECE}
    if len(long) in (0, len(trials)):
        return x, trials, ()
    x = np.concatenate([x[rows] for rows in long.values()])
    numbers = np.repeat(list(long), [rows.stop - rows.start for rows in long.values()])
    short = f"{len(trials) - len(long)} trials of under {PIECE} bins were left out"
    return x, split_trials(numbers, len(x)), (short,)


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Keep the package's prints and warnings to itself; the warnings' texts are given."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.redirect_stdout(io.StringIO()):
            yield texts
    for warning in caught:
        text = str(warning.message)
        texts.append(text)
        if not any(known in text for known in EXPECTED_WARNINGS):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
