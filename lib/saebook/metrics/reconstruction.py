"""How well a reconstruction explains the data: the one definition of FVU and its relatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saebook.errors import DataError


def _pair(x: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64 [n, d_in], leading axes joined; shapes and finiteness checked."""
    if x.ndim < 2:
        raise DataError(f"x has shape {tuple(x.shape)}: examples must come as [n, d_in]")
    if x.shape != reconstruction.shape:
        raise DataError(
            f"x has shape {tuple(x.shape)} and its reconstruction {tuple(reconstruction.shape)}: "
            "they must be equal"
        )
    pair = []
    for name, tensor in (("x", x), ("the reconstruction", reconstruction)):
        flat = tensor.detach().reshape(-1, tensor.shape[-1]).to(torch.float64)  # [n, d_in]
        n_bad = int((~torch.isfinite(flat)).sum())
        if n_bad:
            raise DataError(
                f"{n_bad} of {flat.numel()} values of {name} are not finite: "
                "a score over them would mean nothing; check the data and the model"
            )
        pair.append(flat)
    return pair[0], pair[1]


class ReconstructionSums:
    """Streaming sums behind FVU, explained variance, R², L2 ratio and cosine.

    Sums are kept in float64 with the mean updated batch by batch (Chan et al. 1983), so the
    result does not depend on how the data are cut into batches (to about 1e-12), nor on a
    large common offset. A feature counts as constant when its smallest and largest value are
    equal, which is exact.

    Examples
    --------
    >>> import torch
    >>> x = torch.arange(12.0).reshape(6, 2)
    >>> sums = ReconstructionSums()
    >>> for rows in x.split(4):
    ...     sums.update(rows, 0.9 * rows)
    >>> round(sums.explained_variance(), 6) == round(explained_variance(x, 0.9 * x), 6)
    True
    """

    def __init__(self) -> None:
        self.n_examples = 0
        self.n_empty = 0
        self._cosine = 0.0
        self._l2_ratio = 0.0
        self._feature: dict[str, Tensor] = {}
        self._r2_examples: list[Tensor] = []

    def update(self, x: Tensor, reconstruction: Tensor) -> None:
        """Add one batch.

        Parameters
        ----------
        x, reconstruction : Tensor
            [..., d_in], any dtype, in the same (the caller's) units; leading axes are examples.

        Raises
        ------
        DataError
            Shapes differ from each other or from earlier batches, or a value is not finite.
        """
        x, reconstruction = _pair(x, reconstruction)
        n = len(x)
        if n == 0:
            return
        mean = x.mean(0)  # [d_in]
        squared = (x - reconstruction).square()  # [n, d_in]
        self._add(
            n,
            {
                "mean": mean,
                "squares": (x - mean).square().sum(0),
                "errors": squared.sum(0),
                "low": x.amin(0),
                "high": x.amax(0),
            },
        )
        norm = x.norm(dim=1)
        filled = norm > 0
        out_norm = reconstruction.norm(dim=1)
        safe = torch.where(filled, norm, 1.0)
        dots = (x * reconstruction).sum(1) / (safe * torch.where(out_norm > 0, out_norm, 1.0))
        self._cosine += float(dots[filled].sum())
        self._l2_ratio += float((out_norm / safe)[filled].sum())
        self.n_empty += n - int(filled.sum())
        self._r2_examples.append(_r2_rows(x, squared).float().cpu())

    def merge(self, other: ReconstructionSums) -> ReconstructionSums:
        """Add another accumulator's sums to this one (another process, another shard).

        Returns
        -------
        ReconstructionSums
            This object, so that merges chain.
        """
        if other.n_examples:
            self._add(other.n_examples, other._feature)
            self.n_empty += other.n_empty
            self._cosine += other._cosine
            self._l2_ratio += other._l2_ratio
            self._r2_examples.extend(other._r2_examples)
        return self

    def _add(self, n: int, sums: dict[str, Tensor]) -> None:
        if not self._feature:
            self._feature = {name: value.clone() for name, value in sums.items()}
            self.n_examples = n
            return
        mine = self._feature
        if mine["mean"].shape != sums["mean"].shape:
            raise DataError(
                f"a batch has d_in = {len(sums['mean'])}, earlier ones {len(mine['mean'])}: "
                "use one accumulator per data set"
            )
        total = self.n_examples + n
        delta = sums["mean"].to(mine["mean"].device) - mine["mean"]
        mine["squares"] += sums["squares"].to(delta.device)
        mine["squares"] += delta.square() * (self.n_examples * n / total)
        mine["mean"] += delta * (n / total)
        mine["errors"] += sums["errors"].to(delta.device)
        mine["low"] = torch.minimum(mine["low"], sums["low"].to(delta.device))
        mine["high"] = torch.maximum(mine["high"], sums["high"].to(delta.device))
        self.n_examples = total

    def _read(self, name: str) -> Tensor:
        if not self._feature:
            raise DataError("no example was added: there is nothing to score")
        return self._feature[name]

    @property
    def mean(self) -> Tensor:
        """Mean of the data, [d_in] float64."""
        return self._read("mean").clone()

    @property
    def squares_per_feature(self) -> Tensor:
        """Σ (x - mean)² of each feature, [d_in] float64; exactly 0 where it is constant."""
        constant = self._read("low") == self._read("high")
        return torch.where(constant, 0.0, self._read("squares"))

    @property
    def squared_error(self) -> float:
        """Σ ‖x - x̂‖² over all examples."""
        return float(self._read("errors").sum())

    def fvu(self) -> float:
        """Fraction of variance unexplained; NaN where the data are constant (see ``fvu``)."""
        total = float(self.squares_per_feature.sum())
        return self.squared_error / total if total > 0 else math.nan

    def explained_variance(self) -> float:
        """``1 - fvu``; NaN where the data are constant."""
        return 1.0 - self.fvu()

    def r2_per_feature(self) -> Tensor:
        """R² of each feature (unit), [d_in] float64; NaN where it is constant."""
        total = self.squares_per_feature
        return torch.where(total > 0, 1.0 - self._read("errors") / total, math.nan)

    def r2_per_example(self) -> Tensor:
        """R² of each example in the order given, [n] float32; see ``r2_per_example``."""
        self._read("mean")
        return torch.cat(self._r2_examples)

    def l2_ratio(self) -> float:
        """Mean ‖x̂‖/‖x‖ over examples that are not all zero; NaN without one."""
        filled = self.n_examples - self.n_empty
        return self._l2_ratio / filled if filled else math.nan

    def cosine(self) -> float:
        """Mean cosine of x and x̂ over examples that are not all zero; a zero x̂ counts as 0."""
        filled = self.n_examples - self.n_empty
        return self._cosine / filled if filled else math.nan


def _r2_rows(x: Tensor, squared: Tensor) -> Tensor:
    total = (x - x.mean(1, keepdim=True)).square().sum(1)
    constant = x.amin(1) == x.amax(1)
    return torch.where(constant, math.nan, 1.0 - squared.sum(1) / torch.where(constant, 1.0, total))


def _sums(x: Tensor, reconstruction: Tensor) -> ReconstructionSums:
    sums = ReconstructionSums()
    sums.update(x, reconstruction)
    return sums


def fvu(x: Tensor, reconstruction: Tensor) -> float:
    """Fraction of variance unexplained: Σ‖x - x̂‖² / Σ‖x - mean(x)‖².

    Parameters
    ----------
    x, reconstruction : Tensor
        [..., d_in], any dtype, in the same units; the mean is taken over the examples given.

    Returns
    -------
    float
        0 is perfect, 1 is as good as the mean, above 1 is worse. NaN where the data are
        constant (one example, or all equal): there is no variance to explain.

    Raises
    ------
    DataError
        Shapes differ, no example, or a value that is not finite.

    Notes
    -----
    Source: the complement of the coefficient of determination, pooled over features.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    >>> fvu(x, x), fvu(x, x.mean(0).expand_as(x)), fvu(x, torch.zeros_like(x))
    (0.0, 1.0, 3.5)
    """
    return _sums(x, reconstruction).fvu()


def explained_variance(x: Tensor, reconstruction: Tensor) -> float:
    """Explained variance: 1 - Σ‖x - x̂‖² / Σ‖x - mean(x)‖².

    Parameters
    ----------
    x, reconstruction : Tensor
        [..., d_in], any dtype, in the same units; the mean is taken over the examples given.

    Returns
    -------
    float
        1 is perfect; predicting the mean scores 0; an all-zero output scores
        ``-‖mean‖² / variance``. NaN where the data are constant.

    Raises
    ------
    DataError
        Shapes differ, no example, or a value that is not finite.

    Notes
    -----
    Two other formulas are in circulation and flatter a model: dividing by Σ‖x‖² (no mean
    taken), and averaging each example's own ratio. The anchors below tell them apart.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 2.0], [2.0, 4.0], [4.0, 9.0]])
    >>> mean = x.mean(0)
    >>> explained_variance(x, mean.expand_as(x))
    0.0
    >>> round(explained_variance(x, torch.zeros_like(x)), 4)
    -2.5588
    >>> round(float(-mean.square().sum() / x.var(0, correction=0).sum()), 4)
    -2.5588
    >>> wrong = 1 - (x - mean).square().sum() / x.square().sum()  # the mean scores above 0
    >>> round(float(wrong), 4)
    0.719
    """
    return _sums(x, reconstruction).explained_variance()


def r2_per_unit(x: Tensor, reconstruction: Tensor) -> Tensor:
    """R² of each unit over time: 1 - Σ_t (x - x̂)² / Σ_t (x - mean_t x)².

    Parameters
    ----------
    x, reconstruction : Tensor
        [..., d_in], any dtype, in the same units.

    Returns
    -------
    Tensor
        [d_in] float64; NaN where a unit is constant on these examples.

    Raises
    ------
    DataError
        Shapes differ, no example, or a value that is not finite.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
    >>> r2_per_unit(x, torch.tensor([[0.0, 5.0], [2.0, 4.0]]))
    tensor([1., nan], dtype=torch.float64)
    """
    return _sums(x, reconstruction).r2_per_feature()


def r2_per_example(x: Tensor, reconstruction: Tensor) -> Tensor:
    """R² of each example across units: 1 - Σ_i (x_i - x̂_i)² / Σ_i (x_i - mean_i x)².

    The mean is the example's own, over its units. An example whose units are all equal has no
    such variance: NaN. That includes an empty bin (all units silent), whatever the
    reconstruction says of it, so report the share of undefined examples beside any summary.

    Parameters
    ----------
    x, reconstruction : Tensor
        [..., d_in], any dtype, in the same units.

    Returns
    -------
    Tensor
        [n] float32 on the CPU, n the product of the leading axes.

    Raises
    ------
    DataError
        Shapes differ, no example, or a value that is not finite.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    >>> r2_per_example(x, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    tensor([0.5000,    nan])
    """
    return _sums(x, reconstruction).r2_per_example()


def l2_ratio(x: Tensor, reconstruction: Tensor) -> float:
    """Mean ‖x̂‖/‖x‖ over examples that are not all zero: below 1 means shrinkage.

    Parameters
    ----------
    x, reconstruction : Tensor
        [..., d_in], any dtype, in the same units.

    Returns
    -------
    float
        NaN where every example is zero.

    Raises
    ------
    DataError
        Shapes differ, no example, or a value that is not finite.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    >>> l2_ratio(x, 0.5 * x)
    0.5
    """
    sums = _sums(x, reconstruction)
    sums.mean  # noqa: B018  raises where no example was given
    return sums.l2_ratio()


def cosine(x: Tensor, reconstruction: Tensor) -> float:
    """Mean cosine of x and x̂ over examples that are not all zero; a zero x̂ counts as 0.

    Parameters
    ----------
    x, reconstruction : Tensor
        [..., d_in], any dtype.

    Returns
    -------
    float
        Between -1 and 1; NaN where every example is zero.

    Raises
    ------
    DataError
        Shapes differ, no example, or a value that is not finite.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    >>> cosine(x, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    0.5
    """
    sums = _sums(x, reconstruction)
    sums.mean  # noqa: B018  raises where no example was given
    return sums.cosine()
