"""Heat maps of latents over text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from saebook.language.token_views import HEAT, Excerpt, visible
from saebook.plots.style import PAGE_WIDTH, panels, styled

# Monospace characters that fit a page's width at this size.
CHARACTERS = 104
FONT_SIZE = 7.0


@styled
def plot_excerpts(views: Iterable[Any], *, n: int = 4) -> Figure:
    """Excerpts around latents' peaks, each token shaded by the latent's activity.

    Parameters
    ----------
    views : iterable of Excerpts
        One block per latent, from ``top_examples``.
    n : int
        Excerpts shown of each.

    Returns
    -------
    Figure
        Shading is relative to each latent's strongest peak, whose value stands at the left; the
        peak token is framed.

    Examples
    --------
    >>> from saebook.language.token_views import Excerpts
    >>> view = Excerpts([Excerpt(0, 1, ("a", " whale"), (0.0, 2.0), 1)], "latent 7")
    >>> [text.get_text() for text in plot_excerpts([view]).axes[0].texts]
    ['latent 7', '2.00', 'a', ' whale']
    """
    blocks = [(view.title, list(view)[:n]) for view in views]
    n_lines = sum(1 + max(1, len(excerpts)) for _, excerpts in blocks)
    figure, (axes,) = panels(1, 1, width=PAGE_WIDTH, height=0.15 + 0.165 * n_lines)
    axes.set_axis_off()
    axes.set_xlim(-8, CHARACTERS)
    axes.set_ylim(n_lines - 0.3, -0.7)
    line = 0
    for title, excerpts in blocks:
        axes.text(-8, line, title, fontsize=8, fontweight="bold", va="center")
        line += 1
        top = max((excerpt.value for excerpt in excerpts), default=1.0)
        for excerpt in excerpts:
            axes.text(-1, line, f"{excerpt.value:.2f}", fontsize=7, va="center", ha="right")
            _draw(axes, excerpt, top, line)
            line += 1
        if not excerpts:
            axes.text(0, line, "never active here", fontsize=7, va="center", style="italic")
            line += 1
    return figure


def _draw(axes: Axes, excerpt: Excerpt, top: float, line: int) -> None:
    shown = [visible(token) or "∅" for token in excerpt.tokens]
    colour = tuple(value / 255 for value in HEAT)
    x = 0.0
    for i in _that_fit(shown, excerpt.peak):
        width, strength = len(shown[i]), min(1.0, max(0.0, excerpt.activity[i] / top))
        framed = i == excerpt.peak
        axes.add_patch(
            Rectangle(
                (x, line - 0.42), width, 0.84, facecolor=(*colour, strength),
                edgecolor="#444444" if framed else "none", linewidth=0.7,
            )
        )  # fmt: skip
        # Dollar signs would begin a formula.
        text = shown[i].replace("$", r"\$")
        axes.text(x, line, text, fontsize=FONT_SIZE, family="monospace", va="center_baseline")
        x += width


def _that_fit(shown: Sequence[str], peak: int) -> range:
    """Tokens around the peak that fit a line, as many before as after where both are long."""
    first, last, used = peak, peak + 1, len(shown[peak])
    while True:
        wider = []
        if first > 0 and used + len(shown[first - 1]) <= CHARACTERS:
            wider.append("before")
        if last < len(shown) and used + len(shown[last]) <= CHARACTERS:
            wider.append("after")
        if not wider:
            return range(first, last)
        if "before" in wider:
            first -= 1
            used += len(shown[first])
        if "after" in wider and used + len(shown[last]) <= CHARACTERS:
            used += len(shown[last])
            last += 1
