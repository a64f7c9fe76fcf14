"""The latent explorer: its table, what it shows, and what a page without a kernel gets."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from saebook.errors import DataError
from saebook.evaluation.profiles import Spiking, profiles_of
from saebook.evaluation.variables import Variable
from saebook.plots import plot_latent_panel, plot_latent_profile
from saebook.plots.latent_profile import PANELS, LivePanel
from saebook.widgets import LatentExplorer, LatentTable, explorer, latent_explorer
from saebook.widgets.exploring import PIECES, Exploring

VIEW = "application/vnd.jupyter.widget-view+json"
N = 600
DEAD = 5


def table_of(n=6):
    return pd.DataFrame(
        {
            "variable": ["phase", "go_time, by side", "phase", "nothing known", "phase", None],
            "score_test": [0.3, 0.1, np.nan, 0.2, 0.4, 0.5],
            "p": [0.01, 0.2, np.nan, 0.03, 0.04, 0.5],
            "q": [0.02, 0.3, np.nan, 0.03, 0.05, 0.6],
            "discovered": [True, False, False, True, True, False],
            "rows": 100,
        },
        index=pd.RangeIndex(n, name="latent"),
    )


@pytest.fixture(scope="module")
def arguments():
    rng = np.random.default_rng(0)
    latents = (rng.random((N, 6)) < 0.2) * rng.gamma(2.0, 1.0, (N, 6))
    latents[:, DEAD] = 0.0
    step, at = np.arange(N) % 4, np.arange(N) % 20
    label = np.arange(N) // 20 % 2
    phase = Variable("phase", "continuous", step * 1.0, step, np.arange(4.0), "s")
    since = np.where(at < 10, (at + 0.5) * 0.1, np.nan)
    group = np.where(at < 10, label * 10 + at, -1)
    go = Variable(
        "go_time, by side", "event", since, group, (np.arange(10) + 0.5) * 0.1, "s", ("l", "r")
    )
    return {
        "latents": latents,
        "variables": [phase, go],
        "time": np.arange(N) * 0.1,
        "decoder": rng.normal(size=(6, 12)),
        "table": table_of(),
    }


@pytest.fixture
def view(arguments):
    return latent_explorer(**arguments)


def test_table_sorts_both_ways_and_keeps_what_is_missing_last():
    table = LatentTable([0.1, 0.2, 0.3, 0.4, 0.5, 0.0], table_of())
    assert table.columns == ["latent", "variable", "score_test", "p", "q", "discovered", "density"]
    assert table.sort_by == "q" and not table.descending
    assert table.order.tolist() == [0, 3, 4, 1, 2, 5]
    table.sort("score_test")
    assert table.descending and table.order.tolist() == [4, 0, 3, 1, 2, 5]
    table.sort("score_test")
    assert not table.descending and table.order.tolist() == [1, 3, 0, 4, 2, 5]
    table.sort("variable")
    assert table.order.tolist() == [1, 3, 0, 2, 4, 5]
    table.sort("latent")
    assert table.order.tolist() == [0, 1, 2, 3, 4, 5]


def test_table_filters_by_number_text_and_discovery():
    table = LatentTable([0.1] * 6, table_of())
    table.text = " PHASE "
    assert table.order.tolist() == [0, 4, 2]
    table.discovered_only = True
    assert table.order.tolist() == [0, 4]
    table.text = "3"
    assert table.order.tolist() == [3]
    table.text, table.discovered_only = "a.b(", False
    assert table.order.tolist() == [] and table.rows() == []


def test_headings_stand_above_their_columns():
    table = LatentTable([0.1] * 6, table_of())
    headings = [table.heading(name) for name in table.columns]
    assert [len(heading) for heading in headings] == list(table.widths().values())
    assert {len(row) for row in table.rows()} == {len("  ".join(headings))}
    assert "q ▲" in headings[4] and table.rows()[0].split()[-2:] == ["yes", "0.1"]


def test_a_table_without_findings_has_numbers_and_density():
    table = LatentTable([0.1, 0.3])
    assert table.columns == ["latent", "density"] and table.order.tolist() == [1, 0]
    assert not table.can_be_discovered
    with pytest.raises(DataError, match="no column 'q'"):
        table.sort("q")
    with pytest.raises(DataError, match="no column 'z'"):
        LatentTable([0.1] * 6, table_of(), ["z"])


def test_first_comes_the_first_of_the_table_with_its_own_variable(view):
    assert view.latent == 0 and view.variable == "phase"
    view.latent = 1
    assert view.variable == "go_time, by side"
    view.latent = 3  # its variable isn't among those given
    assert view.variable == "phase"
    view.variable = "go_time, by side"
    view.latent = 0
    assert view.variable == "go_time, by side"
    view.variable = None
    assert view.variable == "phase"
    assert view.description.endswith("score_test 0.3; p 0.01; q 0.02; discovered")


def test_what_does_not_exist_is_named(arguments, view):
    with pytest.raises(DataError, match="no latent 6"):
        latent_explorer(**arguments, latent=6)
    with pytest.raises(DataError, match="no variable 'speed'"):
        latent_explorer(**arguments, variable="speed")
    with pytest.raises(DataError, match="no latent -1"):
        view.latent = -1
    with pytest.raises(DataError, match="no moment 40"):
        view.moment = 40
    with pytest.raises(DataError, match="is a list"):
        latent_explorer(np.eye(3), table=[1, 2])


def controls_of(view):
    view.widget()
    return view._controls


def test_choosing_redraws_each_picture_once(view, monkeypatch):
    controls, drawn = controls_of(view), []
    for name, panel in controls._panels.items():
        png = panel.png
        monkeypatch.setattr(panel, "png", lambda p, n=name, f=png: drawn.append(n) or f(p))
    before = controls._pictures["time"].value
    controls.list.value = 4
    assert view.latent == 4 and sorted(drawn) == sorted(controls._panels)
    assert controls._pictures["time"].value != before
    drawn.clear()
    controls.moments.index = 2
    assert view.moment == 2 and drawn == ["closeup"]
    drawn.clear()
    view.latent = 4
    assert view.moment == 0 and drawn == ["closeup"] and controls.moments.index == 0
    drawn.clear()
    controls.variable.value = "go_time, by side"
    assert view.variable == "go_time, by side" and len(drawn) == 6
    drawn.clear()
    controls.headings["density"].click()
    controls.find.value = "phase"
    assert drawn == [] and view.latent == 4


def test_sorting_and_filtering_list_and_keep_the_latent(view):
    controls = controls_of(view)
    controls.headings["score_test"].click()
    assert [value for _, value in controls.list.options] == [4, 0, 3, 1, 2, 5] == view.order
    assert controls.list.value == 0 == view.latent
    assert "▼" in controls.headings["score_test"].description
    controls.discovered.value = True
    assert view.order == [4, 0, 3]
    controls.find.value = "nothing known"
    assert view.order == [3] and controls.list.value is None and view.latent == 0
    controls.next.click()
    assert view.latent == 3
    controls.find.value, controls.discovered.value = "", False
    assert controls.list.value == 3
    controls.next.click()
    controls.previous.click()
    controls.previous.click()
    assert view.latent == 0 == controls.list.value
    controls.find.value = "there is none"
    controls.next.click()
    assert view.order == [] and view.latent == 0


def test_a_latent_leads_to_those_active_with_it(view):
    controls = controls_of(view)
    others = view.profiles.coactive(0)
    assert controls.coactive[0].description.startswith(f"{others.index[0]}: ")
    assert [b.layout.display for b in controls.coactive].count("none") == 6 - len(others)
    controls.coactive[0].click()
    assert view.latent == others.index[0] == controls.list.value
    view.latent = DEAD
    assert controls.moments.options == () and "No other latent" in controls._others_named.value
    view.latent = 0
    assert len(controls.moments.options) == 6


def test_controls_and_pictures_can_be_read_aloud(view):
    controls = controls_of(view)
    for control in [controls.list, controls.next, controls.find, *controls.headings.values()]:
        assert control.tooltip
    for name, picture in controls._pictures.items():
        assert 'alt="' in picture.value, name
    assert "Mean activity over phase (s)" in controls._pictures["tuning"].value
    assert view.words.startswith(view.description) and "Decoder weights over 12 units" in view.words


def test_a_page_without_a_kernel_gets_the_image_and_a_live_one_the_view_too(view, monkeypatch):
    monkeypatch.setattr(explorer, "_someone_is_there", lambda: True)
    live, about = view._repr_mimebundle_()
    assert {VIEW, "image/png", "text/plain"} <= set(live)
    assert live[VIEW]["model_id"] == view.widget().model_id
    assert about["image/png"]["alt"] == view.words == live["text/plain"]
    monkeypatch.setattr(explorer, "_someone_is_there", lambda: False)
    still, _ = view._repr_mimebundle_()
    assert set(still) == {"image/png", "text/plain"}
    assert base64.b64decode(still["image/png"]).startswith(b"\x89PNG")


def test_a_still_page_says_what_it_shows(view, monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **more: shown.append(data))
    monkeypatch.setattr(explorer, "_someone_is_there", lambda: False)
    view._ipython_display_()
    assert "image/png" in shown[0] and shown[1]["text/markdown"] == view.words
    monkeypatch.setattr(explorer, "_someone_is_there", lambda: True)
    view._ipython_display_()
    assert len(shown) == 3 and VIEW in shown[2]


def test_a_discovery_is_a_table(arguments):
    found = latent_explorer(**{**arguments, "table": SimpleNamespace(table=table_of())})
    assert found.order == latent_explorer(**arguments).order


@pytest.mark.parametrize("n_units", [1, 3, 9, 400])
def test_any_number_of_units_is_drawn(n_units):
    rng = np.random.default_rng(0)
    found = profiles_of(np.eye(50, 3), decoder=rng.normal(size=(3, n_units)))
    LatentExplorer(found).figure().canvas.draw()


def test_arrays_alone_are_enough():
    view = latent_explorer(np.eye(50, 4))
    view.figure().canvas.draw()
    assert "no decoder was given" in view.words and "no variable was given" in view.words
    controls = controls_of(view)
    assert controls.variable is None
    controls.next.click()
    assert view.latent == 1


def test_everything_dead_is_drawn():
    view = latent_explorer(np.zeros((50, 3)), decoder=np.ones((3, 4)))
    assert view.description == "Latent 0 is never active in the bins"
    view.figure().canvas.draw()
    controls_of(view).next.click()
    assert view.latent == 1


def test_panels_leave_nothing_of_the_latent_before(arguments):
    state = Exploring(profiles_of(**arguments))
    counts = np.random.default_rng(1).poisson(1.0, (N, 12))
    state.profiles.spiking = Spiking(
        range(12), counts=counts, time=arguments["time"], bin_size_s=0.1
    )
    for name in set(PANELS) - {"coactive"}:
        panel, pictures = LivePanel(name), {}
        for latent in (0, 1, DEAD, 4, 0, DEAD, 1):
            state.latent = latent
            picture = panel.png(state.piece(name))
            assert pictures.setdefault(latent, picture) == picture, (name, latent)
            assert picture == LivePanel(name).png(state.piece(name)), (name, latent)
        assert len(set(pictures.values())) >= 3, name


def test_a_page_holds_all_panels(arguments):
    state = Exploring(profiles_of(**arguments))
    figure = plot_latent_profile({name: state.piece(name) for name in PIECES}, title="Latent 0")
    titles = {axes.get_title(loc="left") for axes in figure.axes}
    assert {"When it is active", "What it follows", "Trial by trial", "Close up"} <= titles
    with pytest.raises(DataError, match="no panel 'heatmap'"):
        plot_latent_panel("heatmap", None)
