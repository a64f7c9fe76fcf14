"""Look at one latent after another: an interactive view that is also a still figure."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saebook.errors import DataError
from saebook.evaluation import decoder_directions
from saebook.evaluation.tuning import tuning_curves
from saebook.evaluation.variables import Variable
from saebook.plots.latent_card import card_figure, plot_latent_card

if TYPE_CHECKING:
    import ipywidgets

WIDTH_PX = 840
SORTED_BY = ("variance explained", "share of bins active", "number")


def latent_view(
    sae: Any,
    store: Any,
    variables: Sequence[Variable] = (),
    *,
    scores: pd.DataFrame | None = None,
    split: str = "test",
    latent: int | None = None,
    variable: str | None = None,
) -> LatentView:
    """Show what each latent of an SAE does on one split of a recording.

    In JupyterLab, a view with menus for the latent, the variable and the order of the latents; in
    a page without a kernel, the figure of the first latent.

    Parameters
    ----------
    sae : SAE
        A trained model.
    store : ExampleStore
        Binned counts of one session.
    variables : sequence of Variable
        From ``candidate_variables``; without any, no tuning is drawn.
    scores : DataFrame, optional
        From ``tuning_table``: latents × variables, the share of variance explained.
    split : str
        Rows shown.
    latent : int, optional
        Shown first; the first in order by default.
    variable : str, optional
        Shown first; the one that explains most of that latent by default.

    Returns
    -------
    LatentView
        Shown as the last value of a cell.

    Raises
    ------
    DataError
        No such latent or variable, or scores of another shape.

    Examples
    --------
    >>> import tempfile, torch
    >>> from saebook.data import Recording, UnitCriteria, prepare
    >>> from saebook.evaluation import RandomDictionary
    >>> rng = np.random.default_rng(0)
    >>> trains = [np.sort(rng.uniform(0, 600, 3000)) for _ in range(24)]
    >>> recording = Recording.from_spike_times(trains, interval=(0, 600))
    >>> rules = UnitCriteria(max_isi_violations=None)
    >>> folder = tempfile.mkdtemp()
    >>> store = prepare(recording, f"{folder}/store", criteria=rules, progress=False)
    >>> latent_view(RandomDictionary(24, 8, k=2), store, latent=3).description
    'Latent 3, active on 17 % of the test bins'
    """
    import torch

    rows = store.rows(split)
    counts = store.tensor(rows=rows)
    with torch.no_grad():
        activity = sae.encode(counts.to(sae.W_dec)).cpu().numpy()
    features = store.features
    names = features["unit"] if "unit" in features else range(store.d_in)
    return LatentView(
        activity=activity,
        time=store.index["time"].to_numpy()[rows],
        counts=counts.numpy(),
        directions=decoder_directions(sae).cpu().numpy(),
        unit_names=list(names),
        bin_size_s=float(store.bin_size_s),
        groups={v.name: v.group[rows] for v in variables},
        variables=variables,
        scores=scores,
        split=split,
        latent=latent,
        variable=variable,
    )


class LatentView:
    """A view of latents, made by :func:`latent_view`.

    Attributes
    ----------
    latent : int
        The latent shown; setting it redraws.
    variable : str or None
        The variable shown; setting it redraws.
    order : list of int
        Latents in the order of the menu.
    description : str
        The figure in words, which screen readers get.
    """

    def __init__(
        self,
        *,
        activity: np.ndarray,
        time: np.ndarray,
        counts: np.ndarray,
        directions: np.ndarray,
        unit_names: Sequence[Any],
        bin_size_s: float,
        groups: dict[str, np.ndarray],
        variables: Sequence[Variable],
        scores: pd.DataFrame | None,
        split: str,
        latent: int | None = None,
        variable: str | None = None,
    ) -> None:
        n_latents = activity.shape[1]
        self._variables = {v.name: v for v in variables}
        if scores is not None:
            missing = [name for name in self._variables if name not in scores.columns]
            if len(scores) != n_latents or missing:
                raise DataError(
                    f"scores have {len(scores)} rows for {n_latents} latents and lack "
                    f"{missing or 'no variable'}: give tuning_table of this SAE and these variables"
                )
        if variable is not None and variable not in self._variables:
            raise DataError(f"no variable {variable!r}; there are: {', '.join(self._variables)}")
        if latent is not None and not 0 <= latent < n_latents:
            raise DataError(f"no latent {latent}: this SAE has latents 0 to {n_latents - 1}")
        self._activity, self._time, self._counts = activity, time, counts
        self._directions, self._unit_names = directions, list(unit_names)
        self._bin_size_s, self._groups, self._split = bin_size_s, groups, split
        self._scores = None if scores is None or not self._variables else scores
        self._density = (activity > 0).mean(axis=0)
        self._sorted_by = SORTED_BY[0] if self._scores is not None else SORTED_BY[1]
        self._figure = card_figure()
        self._box: Any = None
        self._drawn: Any = None
        self._latent = self.order[0] if latent is None else int(latent)
        self._variable = variable or self._best_variable(self._latent)

    @property
    def latent(self) -> int:
        """The latent shown."""
        return self._latent

    @latent.setter
    def latent(self, latent: int) -> None:
        if not 0 <= latent < len(self._density):
            raise DataError(
                f"no latent {latent}: this SAE has latents 0 to {len(self._density) - 1}"
            )
        self._latent = int(latent)
        self._redraw()

    @property
    def variable(self) -> str | None:
        """The variable shown, None without any."""
        return self._variable

    @variable.setter
    def variable(self, variable: str) -> None:
        if variable not in self._variables:
            raise DataError(f"no variable {variable!r}; there are: {', '.join(self._variables)}")
        self._variable = variable
        self._redraw()

    @property
    def order(self) -> list[int]:
        """Latents in the order of the menu; those never active here come last."""
        if self._sorted_by == "variance explained" and self._scores is not None:
            value = self._scores[list(self._variables)].max(axis=1).to_numpy()
        elif self._sorted_by == "share of bins active":
            value = self._density
        else:
            value = -np.arange(len(self._density), dtype=float)
        key = np.where(self._density > 0, value, -np.inf)
        return [int(i) for i in np.argsort(-key, kind="stable")]

    @property
    def description(self) -> str:
        """The figure in words."""
        share = 100 * self._density[self._latent]
        words = f"Latent {self._latent}, active on {share:.2g} % of the {self._split} bins"
        score = self._score(self._latent, self._variable)
        if score is not None:
            words += f"; {self._variable} explains {100 * score:.0f} % of it (training rows)"
        return words

    def figure(self) -> Figure:
        """The still figure of the latent and variable shown."""
        tuning, names = None, ()
        if self._variable is not None:
            shown = self._variables[self._variable]
            group = self._groups[shown.name]
            curves = tuning_curves(self._activity[:, self._latent], group, shown.n_groups)
            tuning = (shown.centres, curves.reshape(-1, len(shown.centres)), shown.axis)
            names = shown.conditions
        return plot_latent_card(
            self._activity[:, self._latent],
            self._time,
            self._counts,
            self._directions[self._latent],
            bin_size_s=self._bin_size_s,
            unit_names=self._unit_names,
            tuning=tuning,
            curve_names=names,
            title=self.description,
            figure=self._figure,
        )

    def png(self, dpi: int = 100) -> bytes:
        """The still figure as PNG."""
        stream = io.BytesIO()
        # As drawn: cropping to the ink would need a second drawing.
        quick = {"compress_level": 1}
        self.figure().savefig(stream, format="png", dpi=dpi, bbox_inches=None, pil_kwargs=quick)
        return stream.getvalue()

    def widget(self) -> ipywidgets.VBox:
        """The interactive view; made once."""
        if self._box is None:
            self._box = self._build()
        return self._box

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        data: dict[str, Any] = {
            "text/plain": self.description,
            "image/png": base64.b64encode(self.png(dpi=160)).decode("ascii"),
        }
        if _someone_is_there():
            # A frontend that knows widgets takes the view, any other one the image.
            data = {**(self.widget()._repr_mimebundle_() or {}), **data}
        return data, {"image/png": {"width": WIDTH_PX}}

    def _build(self) -> ipywidgets.VBox:
        import ipywidgets

        wide = {"description_width": "initial"}
        self._picture = ipywidgets.HTML()
        self._latent_menu = ipywidgets.Dropdown(
            options=self._latent_options(), value=self._latent, description="Latent", style=wide,
            tooltip="the latent shown",
            layout=ipywidgets.Layout(width="260px"),
        )  # fmt: skip
        self._order_menu = ipywidgets.Dropdown(
            options=[name for name in SORTED_BY if self._scores is not None or name != SORTED_BY[0]],
            value=self._sorted_by, description="sorted by", style=wide,
            tooltip="order of the latents in their menu", layout=ipywidgets.Layout(width="230px"),
        )  # fmt: skip
        controls = [self._latent_menu, self._order_menu]
        self._latent_menu.observe(self._on_latent, "value")
        self._order_menu.observe(self._on_order, "value")
        self._variable_menu = None
        if self._variables:
            self._variable_menu = ipywidgets.Dropdown(
                options=list(self._variables), value=self._variable, description="Variable",
                tooltip="the variable that tuning is drawn over", style=wide,
                layout=ipywidgets.Layout(width="330px"),
            )  # fmt: skip
            self._variable_menu.observe(self._on_variable, "value")
            controls.append(self._variable_menu)
        self._drawn = (self._latent, self._variable)
        self._draw_picture()
        row = ipywidgets.HBox(controls, layout=ipywidgets.Layout(flex_flow="row wrap"))
        return ipywidgets.VBox([row, self._picture])

    def _latent_options(self) -> list[tuple[str, int]]:
        options = []
        for latent in self.order:
            score = self._score(latent, self._best_variable(latent))
            remark = f"on {100 * self._density[latent]:.2g} %"
            if self._sorted_by == "variance explained" and score is not None:
                remark = f"explained {100 * score:.0f} %"
            options.append((f"{latent} ({remark})", latent))
        return options

    def _on_latent(self, change: Any) -> None:
        self.latent = change["new"]

    def _on_variable(self, change: Any) -> None:
        self.variable = change["new"]

    def _on_order(self, change: Any) -> None:
        self._sorted_by = change["new"]
        # New options select the first one: nobody chose that, so nothing follows it.
        self._latent_menu.unobserve(self._on_latent, "value")
        self._latent_menu.options = self._latent_options()
        self._latent_menu.value = self._latent
        self._latent_menu.observe(self._on_latent, "value")

    def _redraw(self) -> None:
        if self._box is None or self._drawn == (self._latent, self._variable):
            return
        # Noted first: setting a menu calls back, and must not draw a second time.
        self._drawn = (self._latent, self._variable)
        self._latent_menu.value = self._latent
        if self._variable_menu is not None:
            self._variable_menu.value = self._variable
        self._draw_picture()

    def _draw_picture(self) -> None:
        source = base64.b64encode(self.png()).decode("ascii")
        words = html.escape(self.description, quote=True)
        self._picture.value = (
            f'<img src="data:image/png;base64,{source}" alt="{words}" width="{WIDTH_PX}" '
            'style="max-width: 100%; background: white">'
        )

    def _best_variable(self, latent: int) -> str | None:
        if not self._variables:
            return None
        if self._scores is None:
            return next(iter(self._variables))
        return str(self._scores.loc[latent, list(self._variables)].idxmax())

    def _score(self, latent: int, variable: str | None) -> float | None:
        if self._scores is None or variable is None:
            return None
        return float(self._scores.loc[latent, variable])


def _someone_is_there() -> bool:
    """Whether a person's frontend runs the kernel; headless engines never let a cell ask."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    kernel = getattr(shell, "kernel", None)
    return shell is None or kernel is None or bool(getattr(kernel, "_allow_stdin", True))
