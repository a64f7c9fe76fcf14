"""Dense linear methods, bin by bin: PCA, factor analysis and ICA of scikit-learn."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Literal

import numpy as np

from saebook.baselines.convergence import convergence
from saebook.baselines.count_scale import CountScale, InputTransform
from saebook.baselines.method import Method, Trials, check_dimensions
from saebook.errors import DataError


class _Linear(Method):
    """An estimator of scikit-learn whose way back is a matrix and an offset."""

    dimension: ClassVar[str | None] = "n_components"
    n_components: int
    input_transform: InputTransform
    estimator: Any = None

    @abc.abstractmethod
    def _estimator(self) -> Any: ...

    def _directions(self) -> np.ndarray:
        return self.estimator.components_

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        check_dimensions(self.n_components, x)
        self._scale = CountScale(self.input_transform)
        scaled = self._scale.scaled(x)
        with convergence() as messages:
            self.estimator = self._estimator().fit(scaled)
        self.fit_messages = tuple(messages)
        self.components = self._directions()  # [n_components, n_units]
        self._scale.calibrate(x, self._back(self.estimator.transform(scaled)))

    def _transform(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        return self.estimator.transform(self._scale.scaled(x))

    def _reconstruct(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        return self._scale.counts(self._back(self._transform(x, trials)))

    def _back(self, latents: np.ndarray) -> np.ndarray:
        return latents @ self.components + self.estimator.mean_


class PCA(_Linear):
    """Principal components of each bin's counts (scikit-learn).

    Parameters
    ----------
    n_components
        Dimensions.
    random_state
        Seed; it matters for the randomised solver only.
    svd_solver
        As scikit-learn names them. The default is exact, and fast while units are fewer than
        some thousands.
    input_transform
        `none`, the default: counts as they are. `sqrt`: their square roots.

    Notes
    -----
    Reconstructions are clipped at 0: see :class:`~saebook.baselines.count_scale.CountScale`.

    References
    ----------
    Pearson 1901, "On lines and planes of closest fit to systems of points in space".

    Examples
    --------
    >>> pca = PCA(n_components=1).fit([[0, 0], [1, 2], [2, 4]])
    >>> pca.reconstruct([[3, 6]]).round(4).tolist()
    [[3.0, 6.0]]
    """

    name: ClassVar[str] = "PCA"

    def __init__(
        self,
        *,
        n_components: int = 16,
        random_state: int = 0,
        svd_solver: str = "covariance_eigh",
        input_transform: InputTransform = "none",
    ) -> None:
        self.n_components, self.random_state = n_components, random_state
        self.svd_solver, self.input_transform = svd_solver, input_transform
        CountScale(input_transform)

    def _estimator(self) -> Any:
        from sklearn.decomposition import PCA as Estimator

        return Estimator(
            self.n_components,
            svd_solver=self.svd_solver,  # pyright: ignore[reportArgumentType]
            random_state=self.random_state,
        )


class FactorAnalysis(_Linear):
    """Factor analysis: shared variance of each bin's counts, private variance of each unit.

    Latents are posterior means. It is GPFA without time (scikit-learn).

    Parameters
    ----------
    n_components
        Dimensions.
    random_state
        Seed of the randomised decomposition.
    svd_method
        `randomized` or `lapack`, which is exact.
    tol, max_iter
        Where the expectation-maximisation ends; `fit_messages` say whether by itself.
    rotation
        `varimax`, `quartimax` or None.
    input_transform
        `none`, the default: counts as they are. `sqrt`: their square roots, as Yu et al. do.

    Notes
    -----
    Reconstructions are clipped at 0: see :class:`~saebook.baselines.count_scale.CountScale`.

    References
    ----------
    Yu et al. 2009, "Gaussian-process factor analysis for low-dimensional single-trial analysis
    of neural population activity"; Barber 2012, "Bayesian Reasoning and Machine Learning", 21.2.

    Examples
    --------
    >>> drive = np.random.default_rng(0).poisson(3.0, (200, 1))
    >>> analysis = FactorAnalysis(n_components=1).fit(drive * [1, 2, 1])
    >>> analysis.transform([[0, 0, 0], [9, 18, 9]]).shape
    (2, 1)
    """

    name: ClassVar[str] = "FA"
    stochastic: ClassVar[bool] = True

    def __init__(
        self,
        *,
        n_components: int = 16,
        random_state: int = 0,
        svd_method: Literal["randomized", "lapack"] = "randomized",
        tol: float = 1e-2,
        max_iter: int = 1000,
        rotation: Literal["varimax", "quartimax"] | None = None,
        input_transform: InputTransform = "none",
    ) -> None:
        self.n_components, self.random_state = n_components, random_state
        self.svd_method, self.tol, self.max_iter = svd_method, tol, max_iter
        self.rotation, self.input_transform = rotation, input_transform
        CountScale(input_transform)

    def _estimator(self) -> Any:
        from sklearn.decomposition import FactorAnalysis as Estimator

        return Estimator(
            self.n_components,
            svd_method=self.svd_method,
            tol=self.tol,  # pyright: ignore[reportArgumentType]
            max_iter=self.max_iter,
            rotation=self.rotation,  # pyright: ignore[reportArgumentType]
            random_state=self.random_state,
        )


class ICA(_Linear):
    """Independent components of each bin's counts (FastICA of scikit-learn).

    Latents have variance 1 on the training rows; their signs and order are arbitrary.

    Parameters
    ----------
    n_components
        Dimensions; the counts are first reduced to as many principal components.
    random_state
        Seed of the first guess.
    fun
        Contrast: `logcosh`, `exp` or `cube`.
    tol, max_iter
        Where the iteration ends; `fit_messages` say whether by itself.
    input_transform
        `none`, the default: counts as they are. `sqrt`: their square roots.

    Raises
    ------
    DataError
        On fitting, also: units that are silent or sums of each other leave fewer dimensions
        than asked for, which whitening would fill with noise.

    Notes
    -----
    Reconstructions are clipped at 0: see :class:`~saebook.baselines.count_scale.CountScale`.

    References
    ----------
    Hyvärinen and Oja 2000, "Independent component analysis: algorithms and applications".

    Examples
    --------
    >>> sources = np.random.default_rng(0).exponential(1.0, (500, 2))
    >>> mixed = sources @ [[2, 1, 0], [0, 1, 3]]
    >>> latents = ICA(n_components=2).fit(mixed).transform(mixed)
    >>> np.abs(np.corrcoef(latents.T, sources.T)[:2, 2:]).max(axis=1).round(1).tolist()
    [1.0, 1.0]
    """

    name: ClassVar[str] = "ICA"
    stochastic: ClassVar[bool] = True

    def __init__(
        self,
        *,
        n_components: int = 16,
        random_state: int = 0,
        fun: Literal["logcosh", "exp", "cube"] = "logcosh",
        tol: float = 1e-4,
        max_iter: int = 200,
        input_transform: InputTransform = "none",
    ) -> None:
        self.n_components, self.random_state = n_components, random_state
        self.fun, self.tol, self.max_iter = fun, tol, max_iter
        self.input_transform = input_transform
        CountScale(input_transform)

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        check_dimensions(self.n_components, x)
        scaled = CountScale(self.input_transform).scaled(x)
        centred = scaled - scaled.mean(axis=0)
        rank = int(np.linalg.matrix_rank(centred.T @ centred))
        if rank < self.n_components:
            raise DataError(
                f"n_components={self.n_components}, but the {x.shape[1]} units vary in {rank} "
                f"dimensions: ask for at most {rank}"
            )
        # Dimensions without variance are divided by 0, and then left out.
        with np.errstate(invalid="ignore", divide="ignore"):
            super()._fit(x, trials, y)
        if not np.isfinite(self.estimator.mixing_).all():
            raise DataError(
                f"ICA found no {self.n_components} components: the {x.shape[1]} units hardly vary "
                "in as many dimensions; ask for fewer"
            )

    def _estimator(self) -> Any:
        from sklearn.decomposition import FastICA

        return FastICA(
            self.n_components,
            whiten="unit-variance",  # pyright: ignore[reportArgumentType]
            fun=self.fun,
            tol=self.tol,  # pyright: ignore[reportArgumentType]
            max_iter=self.max_iter,
            random_state=self.random_state,
        )

    def _directions(self) -> np.ndarray:
        return self.estimator.mixing_.T
