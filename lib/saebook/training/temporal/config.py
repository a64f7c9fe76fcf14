"""Settings of a temporal term."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from saebook.errors import ConfigError
from saebook.models.settings import as_json, build, check_choice, check_types
from saebook.training.temporal.registry import TEMPORAL

SIMILARITIES = ("dot", "cosine")
POSITIVE = ("temperature", "window", "queue_size")


@dataclass(frozen=True)
class TemporalConfig:
    """A term that has the first latents say the same at nearby times.

    Parameters
    ----------
    kind
        ``"contrastive"`` (InfoNCE of cosines against a queue of earlier rows, rows of the
        anchor's own sequence left out), ``"tsae"`` (the published temporal SAE: negatives from
        the batch alone) or ``"smoothness"`` (squared differences).
    coefficient
        Weight of the term once it is fully in force. Default: 1, 0.1 and 1.
    window
        Largest distance of a pair, in rows: bins of a recording
        (:func:`saebook.data.bins_of_ms`), tokens of a document. The published temporal SAE takes
        neighbours, 1.
    prefix_fraction
        Share of the latents, the first ones, that the term sees. With nested dictionaries, give
        the share of the first of them.
    temperature
        For ``"contrastive"``: what cosines are divided by.
    queue_size
        For ``"contrastive"``: rows of earlier batches that serve as negatives.
    similarity
        For ``"tsae"``: ``"dot"``, raw products as in its released code, or ``"cosine"``, as in
        its text.
    start_fraction
        Fraction of the run at which the coefficient begins to rise; until then positives are not
        even encoded. Default: where the sparsity coefficient has reached its full value.
    ramp_fraction
        Fraction of the run over which it rises, linearly from 0.

    Raises
    ------
    ConfigError
        A value is of the wrong type, out of range, or of another kind of term.

    Examples
    --------
    >>> TemporalConfig().queue_size, TemporalConfig("tsae").similarity
    (16384, 'dot')
    >>> TemporalConfig("smoothness", queue_size=8)
    Traceback (most recent call last):
    ...
    saebook.errors.ConfigError: queue_size = 8 belongs to kind='contrastive', not 'smoothness'
    """

    kind: str = "contrastive"
    coefficient: float | None = None
    window: int = 16
    prefix_fraction: float = 0.2
    temperature: float | None = None
    queue_size: int | None = None
    similarity: str | None = None
    start_fraction: float | None = None
    ramp_fraction: float = 0.1

    def __post_init__(self):
        check_types(self)
        check_choice("kind", self.kind, TEMPORAL)
        self._fill_in()
        if self.similarity is not None:
            check_choice("similarity", self.similarity, SIMILARITIES)
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} = {value}: it must be greater than 0")
        if self.coefficient is not None and self.coefficient < 0:
            raise ConfigError(f"coefficient = {self.coefficient}: it can't be negative")
        if not 0 < self.prefix_fraction <= 1:
            raise ConfigError(f"prefix_fraction = {self.prefix_fraction}: it must be in (0, 1]")
        for name in ("start_fraction", "ramp_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ConfigError(
                    f"{name} = {value}: a fraction of the run that leaves some of it, in [0, 1)"
                )

    def _fill_in(self) -> None:
        """The kind's own defaults, and no setting of another kind."""
        own = TEMPORAL[self.kind].settings
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in own:
                object.__setattr__(self, field.name, own[field.name])
            of = [kind for kind, term in TEMPORAL.items() if field.name in term.settings]
            if value is not None and of and self.kind not in of:
                raise ConfigError(
                    f"{field.name} = {value!r} belongs to kind={' or '.join(map(repr, of))}, not "
                    f"{self.kind!r}"
                )

    def width(self, d_sae: int) -> int:
        """Latents that the term sees.

        Examples
        --------
        >>> TemporalConfig(prefix_fraction=0.2).width(48)
        10
        """
        return max(1, round(self.prefix_fraction * d_sae))

    def to_dict(self) -> dict[str, Any]:
        """Every setting, ready for JSON."""
        return as_json(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TemporalConfig:
        """Build from a dictionary, refusing names that it does not know."""
        return build(cls, settings)
