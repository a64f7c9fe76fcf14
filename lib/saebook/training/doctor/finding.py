"""What a detector found, and all that one examination found."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
COLOURS = {"error": "#D55E00", "warning": "#E69F00", "note": "#0072B2"}
TEXT_WIDTH = 96


@dataclass(frozen=True)
class Finding:
    """One fault of a run.

    Attributes
    ----------
    name
        Of the detector.
    severity
        ``"error"``: no number of this run can be trusted; ``"warning"``: it is worse than it
        need be, or means less than it seems; ``"note"``: worth knowing.
    evidence
        What was measured, in one clause.
    cause
        What most likely led to it.
    remedy
        What to do.
    """

    name: str
    severity: Severity
    evidence: str
    cause: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.evidence}. {_capital(self.cause)}. {_capital(self.remedy)}"

    def to_dict(self) -> dict[str, str]:
        """Every field, ready for JSON."""
        return asdict(self)


class Diagnosis(Sequence[Finding]):
    """Findings of one examination, the gravest first; prints as a table.

    Parameters
    ----------
    findings
        What was found.
    checked
        Names of all detectors that had what they need.
    unchecked
        Name of each detector that had not, to what it lacked.

    Examples
    --------
    >>> silent = Finding("silent", "error", "L0 is 0", "every latent died", "lower λ")
    >>> diagnosis = Diagnosis([silent], checked=("silent", "dead"))
    >>> print(diagnosis)
    1 finding of 2 checks
    [error] silent
        L0 is 0
        cause   every latent died
        remedy  lower λ
    >>> "silent" in diagnosis, diagnosis.sentences
    (True, {'silent': 'L0 is 0. Every latent died. Lower λ'})
    """

    def __init__(
        self,
        findings: Iterable[Finding] = (),
        checked: Iterable[str] = (),
        unchecked: dict[str, str] | None = None,
    ):
        self._findings = tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity)))
        self.checked = tuple(checked)
        self.unchecked = dict(unchecked or {})

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Finding]: ...
    def __getitem__(self, index):
        return self._findings[index]

    def __len__(self) -> int:
        return len(self._findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._findings)

    def __contains__(self, value: object) -> bool:
        """Whether a finding, or one of this name, is there."""
        return value in self._findings or value in self.names

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what was found."""
        return tuple(finding.name for finding in self._findings)

    @property
    def sentences(self) -> dict[str, str]:
        """Each finding as text, by name."""
        return {finding.name: str(finding) for finding in self._findings}

    def to_dict(self) -> dict[str, Any]:
        """Findings, what was checked and what could not be, ready for JSON."""
        return {
            "findings": [finding.to_dict() for finding in self._findings],
            "checked": list(self.checked),
            "unchecked": self.unchecked,
        }

    @property
    def _title(self) -> str:
        n = len(self._findings)
        return f"{n or 'no'} finding{'s' * (n != 1)} of {len(self.checked)} checks"

    @property
    def _left_out(self) -> str:
        needs = sorted(set(self.unchecked.values()))
        return "; ".join(
            f"not checked without {need}: {', '.join(n for n, v in self.unchecked.items() if v == need)}"
            for need in needs
        )

    def __str__(self) -> str:
        lines = [self._title]
        for finding in self._findings:
            lines.append(f"[{finding.severity}] {finding.name}")
            for label, text in (
                ("", finding.evidence),
                ("cause   ", finding.cause),
                ("remedy  ", finding.remedy),
            ):
                lines += textwrap.wrap(
                    text,
                    TEXT_WIDTH,
                    initial_indent="    " + label,
                    subsequent_indent="    " + " " * len(label),
                )
        if self.unchecked:
            lines += textwrap.wrap(self._left_out, TEXT_WIDTH, subsequent_indent="    ")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from html import escape

        cell = "text-align:left; vertical-align:top; padding:4px 12px 4px 0"
        head = "".join(
            f'<th style="{cell}">{name}</th>' for name in ("finding", "measured", "cause", "remedy")
        )
        body = "".join(
            f'<tr><td style="{cell}; border-left:4px solid {COLOURS[f.severity]}; '
            f'padding-left:8px"><b>{escape(f.name)}</b><br>{f.severity}</td>'
            + "".join(
                f'<td style="{cell}">{escape(text)}</td>'
                for text in (f.evidence, f.cause, f.remedy)
            )
            + "</tr>"
            for f in self._findings
        )
        table = (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""
        )
        left_out = f'<p style="opacity:.7">{escape(self._left_out)}</p>' if self.unchecked else ""
        return f"<p><b>{escape(self._title)}</b></p>{table}{left_out}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text[:1].isascii() else text  # λ stays λ
