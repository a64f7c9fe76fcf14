"""Methods whose latents can't be negative, bin by bin: NMF and k-means of scikit-learn."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from saebook.baselines.convergence import convergence
from saebook.baselines.method import Method, Trials, check_dimensions
from saebook.errors import ConfigError


class NMF(Method):
    """Nonnegative matrix factorisation: counts as a sum of parts (scikit-learn).

    Parameters
    ----------
    n_components
        Parts.
    random_state
        Seed of the first guess.
    init
        First guess, as scikit-learn names it; by default `nndsvda`, which starts near the
        principal components and hardly depends on the seed. `random` does.
    beta_loss
        `frobenius`: squared errors. `kullback-leibler`: the Poisson likelihood of the counts,
        up to a constant; then the solver is `mu`.
    tol, max_iter
        Where the iteration ends; `fit_messages` say whether by itself.
    alpha_W, alpha_H, l1_ratio
        Penalties on latents and parts; none by default.

    Notes
    -----
    Latents of new rows are found by iteration too: to within `tol` they depend on the rows that
    they are found with. Reconstructions are nonnegative by construction.

    References
    ----------
    Lee and Seung 1999, "Learning the parts of objects by non-negative matrix factorization".

    Examples
    --------
    >>> counts = np.array([[2, 2, 0], [0, 0, 3], [4, 4, 3]])
    >>> NMF(n_components=2, tol=1e-6, max_iter=1000).fit(counts).reconstruct(counts).round(1)
    array([[2., 2., 0.],
           [0., 0., 3.],
           [4., 4., 3.]], dtype=float32)
    """

    name: ClassVar[str] = "NMF"
    stochastic: ClassVar[bool] = True
    dimension: ClassVar[str | None] = "n_components"
    estimator: Any = None

    def __init__(
        self,
        *,
        n_components: int = 16,
        random_state: int = 0,
        init: Literal["random", "nndsvd", "nndsvda", "nndsvdar"] | None = None,
        beta_loss: Literal["frobenius", "kullback-leibler"] = "frobenius",
        tol: float = 1e-4,
        max_iter: int = 200,
        alpha_W: float = 0.0,
        alpha_H: float | Literal["same"] = "same",
        l1_ratio: float = 0.0,
    ) -> None:
        if beta_loss not in ("frobenius", "kullback-leibler"):
            raise ConfigError(
                f"beta_loss={beta_loss!r}: give 'frobenius' or 'kullback-leibler', for counts"
            )
        self.n_components, self.random_state = n_components, random_state
        self.init, self.beta_loss, self.tol, self.max_iter = init, beta_loss, tol, max_iter
        self.alpha_W, self.alpha_H, self.l1_ratio = alpha_W, alpha_H, l1_ratio

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        from sklearn.decomposition import NMF as Estimator

        check_dimensions(self.n_components, x)
        self.estimator = Estimator(
            self.n_components,  # pyright: ignore[reportArgumentType]
            init=self.init,
            solver="cd" if self.beta_loss == "frobenius" else "mu",
            beta_loss=self.beta_loss,
            tol=self.tol,
            max_iter=self.max_iter,
            random_state=self.random_state,
            alpha_W=self.alpha_W,  # pyright: ignore[reportArgumentType]
            alpha_H=self.alpha_H,  # pyright: ignore[reportArgumentType]
            l1_ratio=self.l1_ratio,  # pyright: ignore[reportArgumentType]
        )
        with convergence() as messages:
            self.estimator.fit(x)
        self.fit_messages = tuple(messages)
        self.components = self.estimator.components_

    def _transform(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        return self.estimator.transform(x)

    def _reconstruct(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        return self._transform(x, trials) @ self.estimator.components_


class KMeans(Method):
    """K-means: each bin belongs to one cluster (scikit-learn).

    It is the sparsest code there is: one latent of strength 1 in each bin. The reconstruction is
    the mean count of the cluster.

    Parameters
    ----------
    n_clusters
        Clusters, at most as many as bins.
    random_state
        Seed of the first centres.
    latents
        `membership`: 1 for the bin's own cluster, 0 for the others. `distance`: what the
        package's `transform` gives, the distance to each centre.
    n_init, tol, max_iter
        As scikit-learn names them; `fit_messages` tell of fewer distinct clusters than wanted.

    References
    ----------
    Lloyd 1982, "Least squares quantization in PCM"; as dictionary learning: Aharon et al. 2006,
    "K-SVD".

    Examples
    --------
    >>> counts = np.array([[0, 0], [0, 1], [9, 9], [9, 8]])
    >>> clusters = KMeans(n_clusters=2).fit(counts)
    >>> clusters.transform(counts).sum(axis=0).tolist()
    [2.0, 2.0]
    >>> clusters.reconstruct([[8, 9]]).tolist()
    [[9.0, 8.5]]
    """

    name: ClassVar[str] = "k-means"
    stochastic: ClassVar[bool] = True
    dimension: ClassVar[str | None] = "n_clusters"
    estimator: Any = None

    def __init__(
        self,
        *,
        n_clusters: int = 16,
        random_state: int = 0,
        latents: Literal["membership", "distance"] = "membership",
        n_init: int | Literal["auto"] = "auto",
        tol: float = 1e-4,
        max_iter: int = 300,
    ) -> None:
        if latents not in ("membership", "distance"):
            raise ConfigError(f"latents={latents!r}: give 'membership' or 'distance'")
        self.n_clusters, self.random_state, self.latents = n_clusters, random_state, latents
        self.n_init: int | Literal["auto"] = n_init
        self.tol, self.max_iter = tol, max_iter

    def _fit(self, x: np.ndarray, trials: Trials, y: Any) -> None:
        from sklearn.cluster import KMeans as Estimator

        check_dimensions(self.n_clusters, x, name="n_clusters", units=False)
        self.estimator = Estimator(
            self.n_clusters,
            n_init=self.n_init,  # pyright: ignore[reportArgumentType]
            tol=self.tol,
            max_iter=self.max_iter,
            random_state=self.random_state,
        )
        with convergence() as messages:
            self.estimator.fit(x)
        self.fit_messages = tuple(messages)
        # Distances don't add up, so only memberships have directions.
        self.components = self.estimator.cluster_centers_ if self.latents == "membership" else None

    def _transform(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        if self.latents == "distance":
            return self.estimator.transform(x)
        return np.eye(self.n_clusters)[self.estimator.predict(x)]

    def _reconstruct(self, x: np.ndarray, trials: Trials) -> np.ndarray:
        # The package centres the counts first: a mean of zeros comes back a rounding off 0.
        centres = np.maximum(self.estimator.cluster_centers_, 0.0)
        return centres[self.estimator.predict(x)]
