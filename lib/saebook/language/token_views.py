"""Where a latent is most active: excerpts of text around its peaks, as text and as HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from saebook.errors import DataError

GAP = "⋯"
INVISIBLE = {"\n": "⏎", "\r": "⏎", "\t": "⇥"}
# Orange of the handbook's palette: dark text stays legible on it at full strength.
HEAT = (230, 159, 0)


@dataclass(frozen=True)
class Excerpt:
    """Text around one peak of a latent.

    Parameters
    ----------
    document, position : int
        Of the peak.
    tokens : tuple of str
        In reading order; ``"⋯"`` where positions are missing (masked ones).
    activity : tuple of float
        Of each token; 0 at gaps.
    peak : int
        Which token is the peak.

    Examples
    --------
    >>> print(Excerpt(3, 17, ("a", " white", " whale"), (0.0, 1.5, 0.5), 1))
    a[ white] whale
    """

    document: int
    position: int
    tokens: tuple[str, ...]
    activity: tuple[float, ...]
    peak: int

    @property
    def value(self) -> float:
        """Activity at the peak."""
        return self.activity[self.peak]

    def __str__(self) -> str:
        shown = [visible(token) for token in self.tokens]
        return "".join(f"[{t}]" if i == self.peak else t for i, t in enumerate(shown))


class Excerpts:
    """Excerpts of one latent; in a notebook a table with a heat map over its tokens.

    Parameters
    ----------
    excerpts : iterable of Excerpt
        Strongest first.
    title : str
        Heading.

    Examples
    --------
    >>> shown = Excerpts([Excerpt(0, 1, ("a", "<b>"), (0.0, 2.0), 1)], title="latent 7")
    >>> print(shown)
    latent 7
       2.00  a[<b>]
    >>> "&lt;b&gt;" in shown.html()
    True
    """

    def __init__(self, excerpts: Iterable[Excerpt], title: str = "") -> None:
        self.excerpts = list(excerpts)
        self.title = title

    def __iter__(self) -> Iterator[Excerpt]:
        return iter(self.excerpts)

    def __len__(self) -> int:
        return len(self.excerpts)

    def __str__(self) -> str:
        lines = [f"{excerpt.value:7.2f}  {excerpt}" for excerpt in self.excerpts]
        return "\n".join([self.title, *(lines or ["  (never active here)"])])

    def html(self) -> str:
        """A table of excerpts, tokens shaded by activity relative to the strongest peak."""
        top = max((excerpt.value for excerpt in self.excerpts), default=1.0) or 1.0
        body = "".join(
            f'<tr><td style="text-align:right; padding-right:10px">{excerpt.value:.2f}</td>'
            f'<td style="text-align:left; white-space:pre-wrap; font-family:monospace">'
            f"{_shaded(excerpt, top)}</td>"
            f'<td style="text-align:right; opacity:.6">document {excerpt.document}, '
            f"{excerpt.position}</td></tr>"
            for excerpt in self.excerpts
        )
        body = body or '<tr><td style="text-align:left">never active here</td></tr>'
        return f"<table><caption><b>{escape(self.title)}</b></caption><tbody>{body}</tbody></table>"

    def _repr_html_(self) -> str:
        return self.html()


def top_excerpts(
    activity: np.ndarray,
    document: np.ndarray,
    position: np.ndarray,
    token: np.ndarray,
    token_text: Callable[[int], str],
    *,
    n: int = 8,
    before: int = 16,
    after: int = 8,
    title: str = "",
) -> Excerpts:
    """Text around the positions at which a latent is most active.

    Parameters
    ----------
    activity : ndarray
        [n_rows], of one latent at positions in any order.
    document, position, token : ndarray
        Integers [n_rows]: columns of a store's index.
    token_text : callable
        From a token to its text.
    n : int
        Excerpts at most.
    before, after : int
        Positions shown before and after the peak.
    title : str
        Heading.

    Returns
    -------
    Excerpts
        Strongest first. A peak inside an excerpt already shown is left out, and so is one whose
        tokens up to the peak are those of an excerpt already shown: repeats of one passage are
        one example.

    Raises
    ------
    DataError
        The arrays differ in length.

    Examples
    --------
    >>> text = "the whale, the whale swam"
    >>> token = np.frombuffer(text.encode(), dtype=np.uint8)
    >>> activity = (token == ord("w")) * 1.0
    >>> shown = top_excerpts(activity, 0 * token, np.arange(len(token)), token, chr, before=2,
    ...     after=3)
    >>> [str(excerpt) for excerpt in shown]
    ['e [w]hal', ' s[w]am']
    """
    columns = [np.asarray(column) for column in (activity, document, position, token)]
    if len({len(column) for column in columns}) != 1:
        raise DataError(
            f"columns of {[len(column) for column in columns]} rows: give activity, document, "
            "position and token of the same positions"
        )
    order = np.lexsort((columns[2], columns[1]))
    activity, document, position, token = (column[order] for column in columns)
    strongest = np.flatnonzero(activity > 0)
    strongest = strongest[np.argsort(-activity[strongest], kind="stable")]
    shown: list[Excerpt] = []
    covered = np.zeros(len(activity), dtype=bool)
    passages: set[tuple[int, ...]] = set()
    for row in strongest:
        if len(shown) == n:
            break
        if covered[row]:
            continue
        rows = _window(document, position, int(row), before, after)
        passage = tuple(token[rows.start : row + 1][-PASSAGE_TOKENS:].tolist())
        covered[rows.start : rows.stop] = True
        if passage in passages:
            continue
        passages.add(passage)
        shown.append(_excerpt(activity, document, position, token, token_text, rows, int(row)))
    return Excerpts(shown, title)


# Passages are the same when this many tokens up to the peak are.
PASSAGE_TOKENS = 12


def visible(text: str) -> str:
    """A token's text with line ends and other invisible characters made visible.

    Examples
    --------
    >>> visible("end\\n"), visible("\\x00")
    ('end⏎', '�')
    """
    shown = (INVISIBLE.get(c, c if c == " " or c.isprintable() else "�") for c in text)
    return "".join(shown)


def _window(document: Any, position: Any, row: int, before: int, after: int) -> slice:
    """Rows of the same document at most so many positions away."""
    first, last = row, row
    while first > 0 and document[first - 1] == document[row] and (
        position[row] - position[first - 1] <= before
    ):  # fmt: skip
        first -= 1
    while last + 1 < len(document) and document[last + 1] == document[row] and (
        position[last + 1] - position[row] <= after
    ):  # fmt: skip
        last += 1
    return slice(first, last + 1)


def _excerpt(
    activity: np.ndarray,
    document: np.ndarray,
    position: np.ndarray,
    token: np.ndarray,
    token_text: Callable[[int], str],
    rows: slice,
    row: int,
) -> Excerpt:
    texts: list[str] = []
    values: list[float] = []
    peak = 0
    for i in range(rows.start, rows.stop):
        if i > rows.start and position[i] != position[i - 1] + 1:
            texts.append(GAP)
            values.append(0.0)
        if i == row:
            peak = len(texts)
        texts.append(token_text(int(token[i])))
        values.append(float(activity[i]))
    return Excerpt(int(document[row]), int(position[row]), tuple(texts), tuple(values), peak)


def _shaded(excerpt: Excerpt, top: float) -> str:
    red, green, blue = HEAT
    spans = []
    for i, (text, value) in enumerate(zip(excerpt.tokens, excerpt.activity, strict=True)):
        strength = min(1.0, max(0.0, value / top))
        style = f"background:rgba({red},{green},{blue},{strength:.2f})" if strength else ""
        weight = "; font-weight:bold; outline:1px solid #555" if i == excerpt.peak else ""
        spans.append(
            f'<span style="{style}{weight}" title="{value:.3g}">{escape(visible(text))}</span>'
        )
    return "".join(spans)
