"""Figures and tables for publication: each with its caption and the command behind its numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from saebook.errors import DataError
from saebook.metrics import MeanInterval, mean_interval
from saebook.notebook.project import chapter_source, write_text
from saebook.notebook.results import ChapterResults, find_results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from saebook.notebook.chapter import Chapter

INDEX_FILE = "paper.json"
# What pdflatex has no glyph for, in the names of our scores and models.
LATEX = {
    "Δ": r"$\Delta$", "λ": r"$\lambda$", "²": "$^2$", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$",
    "–": "--", "−": "$-$", "→": r"$\rightarrow$", "±": r"$\pm$", "·": r"$\cdot$", "%": r"\%",
    "&": r"\&", "_": r"\_", "#": r"\#", "√": r"$\surd$",
}  # fmt: skip


@dataclass(frozen=True)
class PaperItem:
    """A figure or table, as ``paper.json`` lists it."""

    kind: str
    name: str
    caption: str
    files: list[str]
    commands: list[str]
    made_on: list[str]


class Paper:
    """Collect the figures and tables of a chapter that draws what others found.

    Parameters
    ----------
    chapter : Chapter
        The chapter that draws; files go to ``figures/`` and ``tables/`` of its run folder.
    """

    def __init__(self, chapter: Chapter) -> None:
        self._chapter = chapter
        self.items: list[PaperItem] = []
        self.missing: list[str] = []

    def results(self, chapter: str) -> ChapterResults | None:
        """Results of a chapter, by name or number, said where they are; None where there are none."""
        chapter = chapter_source(chapter).stem
        found = find_results(chapter, beside=self._chapter.path)
        if found is None:
            self.missing.append(chapter)
            print(
                f"{chapter}: neither run nor published, so its figure is left out; "
                f"python -m saebook run {chapter} --params laptop"
            )
        else:
            print(f"{chapter}: {found.source} ({found.made_on})")
        return found

    def figure(self, figure: Figure, name: str, caption: str, *drawn_from: ChapterResults) -> Any:
        """Save a figure as PDF and PNG with its caption.

        Parameters
        ----------
        figure : Figure
            As wide as a column or a page.
        name : str
            File name without its ending.
        caption : str
            What is seen, of what, how many seeds, what the marks mean.
        *drawn_from : ChapterResults
            Where the numbers come from.

        Returns
        -------
        Markdown
            Caption and command, to be shown below the figure.
        """
        path = self._chapter.save_figure(figure, name)
        return self._add("figure", name, caption, [path.name, f"{name}.pdf"], drawn_from)

    def table(
        self,
        table: pd.DataFrame,
        name: str,
        caption: str,
        *drawn_from: ChapterResults,
        shown: pd.DataFrame | None = None,
    ) -> Any:
        """Save a table as CSV and LaTeX with its caption.

        Parameters
        ----------
        table : DataFrame
            Numbers, for the CSV.
        name : str
            File name without its ending.
        caption : str
            What the numbers are.
        *drawn_from : ChapterResults
            Where they come from.
        shown : DataFrame, optional
            The same as text, for LaTeX, such as the second of ``interval_table``; default:
            the numbers to three digits.

        Returns
        -------
        Markdown
            Caption and command.
        """
        text = table if shown is None else shown
        folder = self._chapter.path / "tables"
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
        write_text(folder / f"{name}.tex", latex_table(text, caption, f"tab:{name}"))
        return self._add("table", name, caption, [f"{name}.csv", f"{name}.tex"], drawn_from)

    def _add(
        self,
        kind: str,
        name: str,
        caption: str,
        files: list[str],
        drawn_from: Sequence[ChapterResults],
    ) -> Any:
        from IPython.display import Markdown

        if any(item.name == name and item.kind == kind for item in self.items):
            raise DataError(f"there are two {kind}s of the name {name!r}: give each its own")
        commands = [results.command for results in drawn_from]
        made_on = [results.made_on for results in drawn_from]
        self.items.append(PaperItem(kind, name, caption, files, commands, made_on))
        content = {"missing": self.missing, "items": [asdict(item) for item in self.items]}
        write_text(
            self._chapter.path / INDEX_FILE, json.dumps(content, indent=1, ensure_ascii=False)
        )
        number = sum(item.kind == kind for item in self.items)
        made = "; ".join(f"`{c}` ({on})" for c, on in zip(commands, made_on, strict=True))
        return Markdown(f"**{kind.capitalize()} {number}.** {caption}\n\n*Numbers:* {made}")


def interval_table(
    runs: pd.DataFrame, by: str, scores: Mapping[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and 95 % interval of each score over the runs of each group.

    Parameters
    ----------
    runs : DataFrame
        One row per run: the group and the scores; what is not finite is left out and lowers n.
    by : str
        Column of the groups, which keep the order of their first row.
    scores : mapping of str to str
        Column to the name it gets.

    Returns
    -------
    numbers : DataFrame
        One row per group: per score its mean, low, high and n.
    shown : DataFrame
        The same as text, such as ``0.31 [0.27, 0.35]``.

    Raises
    ------
    DataError
        A column is missing.

    Examples
    --------
    >>> import pandas as pd
    >>> runs = pd.DataFrame({"model": ["topk"] * 3, "fvu": [0.1, 0.2, 0.3]})
    >>> numbers, shown = interval_table(runs, "model", {"fvu": "FVU"})
    >>> shown.to_dict("records")
    [{'model': 'topk', 'FVU': '0.200 [-0.048, 0.448]'}]
    >>> numbers.columns.tolist()
    ['model', 'FVU mean', 'FVU low', 'FVU high', 'FVU n']
    """
    import pandas as pd

    missing = [column for column in (by, *scores) if column not in runs.columns]
    if missing:
        raise DataError(f"runs have no column {missing[0]!r}; there are: {', '.join(runs.columns)}")
    numbers, shown = [], []
    for group in dict.fromkeys(runs[by]):
        own = runs[runs[by] == group]
        row: dict[str, Any] = {by: group}
        text: dict[str, Any] = {by: str(group)}
        for column, name in scores.items():
            finite = [float(v) for v in own[column] if v is not None and math.isfinite(v)]
            over = mean_interval(finite) if finite else MeanInterval(*[math.nan] * 3, n=0)
            row |= {f"{name} mean": over.mean, f"{name} low": over.low}
            row |= {f"{name} high": over.high, f"{name} n": over.n}
            text[name] = interval_text(over)
        numbers.append(row)
        shown.append(text)
    return pd.DataFrame(numbers), pd.DataFrame(shown)


def interval_text(over: MeanInterval) -> str:
    """A mean with its interval, to three decimals; a dash where there is none.

    >>> interval_text(mean_interval([0.25])), interval_text(MeanInterval(*[math.nan] * 3, n=0))
    ('0.250', '–')
    """
    if not over.n:
        return "–"
    if math.isnan(over.low):
        return f"{over.mean:.3f}"
    return f"{over.mean:.3f} [{over.low:.3f}, {over.high:.3f}]"


def latex_table(table: pd.DataFrame, caption: str, label: str) -> str:
    """A table for LaTeX with package booktabs.

    Parameters
    ----------
    table : DataFrame
        Text and numbers; numbers are written to three decimals.
    caption, label : str
        Of the table.

    Returns
    -------
    str
        A whole ``table`` environment.

    Examples
    --------
    >>> import pandas as pd
    >>> print(latex_table(pd.DataFrame({"R²": [0.5]}), "Explained.", "tab:r2"))
    \\begin{table}
    \\caption{Explained.}
    \\label{tab:r2}
    \\begin{tabular}{r}
    \\toprule
    R$^2$ \\\\
    \\midrule
    0.500 \\\\
    \\bottomrule
    \\end{tabular}
    \\end{table}
    <BLANKLINE>
    """
    lines = table.rename(columns=_latex)
    for column in lines.columns:
        if lines[column].dtype.kind not in "fiub":
            lines[column] = [_latex(str(value)) for value in lines[column]]
    # Escaped above, by hand: pandas would also escape the mathematics.
    return lines.to_latex(
        index=False, escape=False, caption=_latex(caption), label=label, float_format="%.3f",
        na_rep="--",
    )  # fmt: skip


def _latex(text: object) -> str:
    return "".join(LATEX.get(letter, letter) for letter in str(text))
