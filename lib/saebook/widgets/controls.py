"""Controls and pictures of the latent explorer, for JupyterLab."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets
from ipywidgets import Layout

from saebook.evaluation.profiles.profiles import N_COACTIVE
from saebook.plots.latent_profile import SIZE, LivePanel
from saebook.widgets.exploring import Exploring, words_of
from saebook.widgets.latent_table import GAP

PANELS = ("time", "tuning", "trials", "weights", "moments", "closeup")
OWN = "each latent's own"
ROWS_SHOWN = 11
FONT = "12px/1.45 var(--jp-code-font-family, monospace)"
STYLE = f"""<style>
.saebook-table, .saebook-table div, .saebook-table select, .saebook-table button {{
  font: {FONT} !important; }}
.saebook-table button {{ padding: 0; margin: 0; text-align: left; white-space: pre;
  overflow: visible; background: none; color: inherit; font-weight: bold !important; }}
.saebook-table button:focus-visible {{ outline: 2px solid #0072B2; }}
.saebook-list button {{ text-align: left; width: auto; padding: 0 8px; font-size: 12px; }}
.saebook-panel img {{ display: block; width: {100 * SIZE[0]:.0f}px; max-width: 100%;
  height: auto; background: white; }}
</style>"""


class Controls:
    """Table, buttons and pictures that follow an `Exploring`, and lead it.

    Parameters
    ----------
    state : Exploring
        What is looked at.

    Attributes
    ----------
    box : ipywidgets.VBox
        All of it.
    """

    def __init__(self, state: Exploring) -> None:
        self._state = state
        self._quiet = False
        self._shown: tuple[Any, ...] = ()
        self._panels = {name: LivePanel(name) for name in PANELS}
        self._pictures = {name: ipywidgets.HTML() for name in PANELS}
        for picture in self._pictures.values():
            picture.add_class("saebook-panel")
        self._summary = ipywidgets.HTML()
        table, choices = self._table(), self._choices()
        top = ipywidgets.HBox([table, choices], layout=Layout(flex_flow="row wrap"))
        panels = ipywidgets.HBox(
            list(self._pictures.values()), layout=Layout(flex_flow="row wrap", overflow="hidden")
        )
        self.box = ipywidgets.VBox([ipywidgets.HTML(STYLE), top, panels])
        self.show()

    def _table(self) -> ipywidgets.VBox:
        state = self._state
        self.find = ipywidgets.Text(
            placeholder="number or text", description="Find", continuous_update=True,
            tooltip="list only latents of this number, or with this text", layout=_wide("210px"),
            style={"description_width": "initial"},
        )  # fmt: skip
        self.discovered = ipywidgets.Checkbox(
            value=False, description="discovered only", indent=False, layout=_wide("130px"),
            tooltip="list only latents that were discovered",
        )  # fmt: skip
        self.find.observe(self._on_filter, "value")
        self.discovered.observe(self._on_filter, "value")
        # Arrow keys in a list belong to the notebook, which then leaves the list: so two buttons.
        self.previous = ipywidgets.Button(description="previous", layout=_wide("80px"))
        self.next = ipywidgets.Button(description="next", layout=_wide("80px"))
        for button, by in ((self.previous, -1), (self.next, 1)):
            button.tooltip = f"the {button.description} latent of the list"
            button.on_click(lambda _, by=by: self._on_step(by))
        found: list[ipywidgets.Widget] = [self.previous, self.next, self.find]
        found += [self.discovered] if state.table.can_be_discovered else []
        self.headings = {}
        for name, width in state.table.widths().items():
            button = ipywidgets.Button(
                tooltip=f"sort by {name}", layout=Layout(width=f"{width + len(GAP)}ch", flex="none")
            )
            button.on_click(lambda _, name=name: self._on_sort(name))
            self.headings[name] = button
        letters = sum(width + len(GAP) for width in state.table.widths().values())
        # Beside the letters, the border of the list and its scroll bar.
        self.list = ipywidgets.Select(
            rows=ROWS_SHOWN, tooltip="the latent shown", layout=_wide(f"calc({letters}ch + 28px)")
        )
        self._fill_list()
        self.list.observe(self._on_latent, "value")
        heading = ipywidgets.HBox(
            list(self.headings.values()), layout=Layout(margin="0 0 0 7px", overflow="visible")
        )
        inside = ipywidgets.VBox([heading, self.list], layout=Layout(width="max-content"))
        rolling = ipywidgets.Box([inside], layout=Layout(overflow="auto", max_width="100%"))
        rolling.add_class("saebook-table")
        row = ipywidgets.HBox(found, layout=Layout(flex_flow="row wrap"))
        return ipywidgets.VBox([row, rolling], layout=Layout(max_width="100%"))

    def _choices(self) -> ipywidgets.VBox:
        state = self._state
        self.moments = ipywidgets.ToggleButtons(tooltips=[], style={"button_width": "auto"})
        self.moments.add_class("saebook-list")
        self.moments.observe(self._on_moment, "index")
        self.coactive = []
        for place in range(N_COACTIVE):
            button = ipywidgets.Button(tooltip="go to this latent", layout=_wide("auto"))
            button.on_click(lambda _, place=place: self._on_coactive(place))
            self.coactive.append(button)
        others = ipywidgets.HBox(self.coactive, layout=Layout(flex_flow="row wrap"))
        others.add_class("saebook-list")
        parts: list[ipywidgets.Widget] = [self._summary]
        names = list(state.profiles.by_name)
        own = state.profiles.table is not None and "variable" in state.profiles.table
        self.variable = ipywidgets.Dropdown(
            options=[(OWN, ""), *[(name, name) for name in names]] if own else names,
            value="" if own and state.follows_latent else state.variable,
            description="Variable", tooltip="the variable that tuning is drawn over",
            style={"description_width": "initial"}, layout=Layout(max_width="330px"),
        ) if names else None  # fmt: skip
        if self.variable is not None:
            self.variable.observe(self._on_variable, "value")
            parts.append(self.variable)
        self._moments_named = ipywidgets.HTML("Strongest moments, seen close up below")
        self._others_named = ipywidgets.HTML()
        parts += [self._moments_named, self.moments, self._others_named, others]
        return ipywidgets.VBox(parts, layout=Layout(flex="1 1 320px", max_width="100%"))

    def show(self) -> None:
        """Bring everything in line with the state; what is right already is left alone."""
        state = self._state
        wanted = (state.latent, state.variable)
        with self._quietly():
            if (*wanted, state.moment) == self._shown:
                return
            names = ("closeup",) if wanted == self._shown[:2] else PANELS
            if names == PANELS and state.latent != (self._shown or (None,))[0]:
                self._show_choices()
            if self.variable is not None and not (
                self.variable.value == "" and state.follows_latent
            ):
                self.variable.value = state.variable
            self.moments.index = state.moment if self.moments.options else None
            listed = state.latent in self._listed
            self.list.index = self._listed.index(state.latent) if listed else None
            # Noted before it is drawn: whoever asks again meanwhile needs no second drawing.
            self._shown = (*wanted, state.moment)
            for name in names:
                piece = state.piece(name)
                source = base64.b64encode(self._panels[name].png(piece)).decode("ascii")
                words = html.escape(words_of(name, piece), quote=True)
                size = f'width="{100 * SIZE[0]:.0f}" height="{100 * SIZE[1]:.0f}"'
                self._pictures[
                    name
                ].value = f'<img src="data:image/png;base64,{source}" alt="{words}" {size}>'

    def _show_choices(self) -> None:
        state = self._state
        self._summary.value = f'<p role="status"><b>{html.escape(state.description)}</b></p>'
        moments = state.profiles.moments(state.latent)
        times = state.profiles.time[moments]
        self.moments.options = [f"{i + 1}: {time:.2f} s" for i, time in enumerate(times)]
        self._moments_named.layout.display = None if len(moments) else "none"
        table = state.profiles.coactive(state.latent)
        self._others_named.value = (
            "Active together with it: Jaccard index, share of its bins (by chance)"
            if len(table)
            else "No other latent is active together with it"
        )
        self._others = table.index.tolist()
        for place, button in enumerate(self.coactive):
            button.layout.display = None if place < len(table) else "none"
            if place < len(table):
                other = table.iloc[place]
                button.description = (
                    f"{self._others[place]}: {other.jaccard:.2f} ({other.jaccard_chance:.2f}), "
                    f"{other.given:.0%} ({other.given_chance:.0%})"
                )

    def _fill_list(self) -> None:
        """Rows and headings; the latent shown stays the one shown, listed or not."""
        table = self._state.table
        with self._quietly():
            for name, button in self.headings.items():
                button.description = (table.heading(name) + GAP).replace(" ", "\u00a0")
            self._listed = [int(latent) for latent in table.order]
            self.list.options = list(zip(table.rows(), self._listed))
            listed = self._state.latent in self._listed
            self.list.index = self._listed.index(self._state.latent) if listed else None

    def _on_latent(self, change: Any) -> None:
        if not self._quiet and change["new"] is not None:
            self._state.latent = change["new"]
            self.show()

    def _on_step(self, by: int) -> None:
        if not self._listed:
            return
        place = self.list.index
        place = 0 if place is None else min(max(place + by, 0), len(self._listed) - 1)
        self._state.latent = self._listed[place]
        self.show()

    def _on_coactive(self, place: int) -> None:
        self._state.latent = self._others[place]
        self.show()

    def _on_moment(self, change: Any) -> None:
        if not self._quiet and change["new"] is not None:
            self._state.moment = change["new"]
            self.show()

    def _on_variable(self, change: Any) -> None:
        if not self._quiet:
            self._state.variable = change["new"] or None
            self.show()

    def _on_filter(self, _: Any) -> None:
        self._state.table.text = self.find.value
        self._state.table.discovered_only = self.discovered.value
        self._fill_list()

    def _on_sort(self, column: str) -> None:
        self._state.table.sort(column)
        self._fill_list()

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Setting a control calls back as a person's choice does; here it is nobody's."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before


def _wide(width: str) -> Layout:
    return Layout(width=width)
