"""Views of latents: what they show, in what order, and what a page without a kernel gets."""

from __future__ import annotations

import base64

import numpy as np
import pandas as pd
import pytest

from saebook.data import Recording, UnitCriteria, prepare
from saebook.errors import DataError
from saebook.evaluation import RandomDictionary
from saebook.evaluation.tuning import tuning_table
from saebook.evaluation.variables import Variable
from saebook.plots.latent_card import plot_latent_card, top_moments
from saebook.widgets import latent_view, latents

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.uniform(0, 200, 600)) for _ in range(24)]
    recording = Recording.from_spike_times(trains, interval=(0, 200))
    store = prepare(
        recording,
        tmp_path_factory.mktemp("widgets") / "store",
        criteria=UnitCriteria(max_isi_violations=None),
        progress=False,
    )
    sae = RandomDictionary(24, 6, k=2)
    step = np.arange(len(store)) % 4
    phase = Variable("phase", "continuous", step * 1.0, step, np.arange(4.0), "s")
    both = Variable("go_time, by side", "event", step * 1.0, step, np.arange(2.0), "s", ("a", "b"))
    variables = [phase, both]
    x = sae.encode(store.tensor("train").float()).numpy()
    return sae, store, variables, tuning_table(x, variables, store.rows("train"))


def test_moments_are_apart_and_active():
    activity = np.zeros(30)
    activity[[3, 4, 20]] = [5.0, 6.0, 1.0]
    assert top_moments(activity, n=5, apart=10).tolist() == [4, 20]
    assert top_moments(np.zeros(5)).tolist() == []


def test_first_latent_is_the_best_explained_and_first_variable_its_best(parts):
    sae, store, variables, scores = parts
    view = latent_view(sae, store, variables, scores=scores)
    latent, variable = np.unravel_index(scores.to_numpy().argmax(), scores.shape)
    assert view.latent == latent == view.order[0]
    assert view.variable == scores.columns[variable]
    assert sorted(view.order) == list(range(6))


def test_without_scores_latents_come_by_density(parts):
    sae, store, _, _ = parts
    view = latent_view(sae, store)
    density = (sae.encode(store.tensor("test").float()) > 0).float().mean(0).numpy()
    assert (np.diff(density[view.order]) <= 0).all()
    assert view.variable is None


def test_menus_redraw_once_and_follow_the_attributes(parts, monkeypatch):
    sae, store, variables, scores = parts
    view = latent_view(sae, store, variables, scores=scores)
    view.widget()
    drawn = []
    png = view.png
    monkeypatch.setattr(view, "png", lambda **sizes: drawn.append(view.latent) or png(**sizes))
    before = view._picture.value
    other = view.order[3]
    view._latent_menu.value = other
    assert view.latent == other and drawn == [other]
    assert view._picture.value != before
    view.latent = view.order[1]
    assert view._latent_menu.value == view.order[1] and len(drawn) == 2
    assert view._variable_menu is not None
    view._variable_menu.value = "go_time, by side"
    assert view.variable == "go_time, by side" and len(drawn) == 3
    kept = view.latent
    view._order_menu.value = "number"
    assert view.latent == kept == view._latent_menu.value and len(drawn) == 3
    assert [value for _, value in view._latent_menu.options] == list(range(6))


def test_controls_and_picture_have_names_that_can_be_read_aloud(parts):
    sae, store, variables, scores = parts
    view = latent_view(sae, store, variables, scores=scores)
    row, picture = view.widget().children
    assert [menu.description for menu in row.children] == ["Latent", "sorted by", "Variable"]
    assert f'alt="{view.description}"' in picture.value
    assert view.description.startswith(f"Latent {view.latent}, active on")


def test_a_page_without_a_kernel_gets_the_image_and_a_live_one_the_view_too(parts, monkeypatch):
    sae, store, variables, scores = parts
    view = latent_view(sae, store, variables, scores=scores)
    monkeypatch.setattr(latents, "_someone_is_there", lambda: True)
    live, sizes = view._repr_mimebundle_()
    assert {VIEW, "image/png", "text/plain"} <= set(live)
    assert live[VIEW]["model_id"] == view.widget().model_id
    assert sizes["image/png"]["width"] > 0
    monkeypatch.setattr(latents, "_someone_is_there", lambda: False)
    still, _ = latent_view(sae, store)._repr_mimebundle_()
    assert set(still) == {"image/png", "text/plain"}
    assert base64.b64decode(still["image/png"]).startswith(b"\x89PNG")


def test_redrawing_leaves_nothing_of_the_latent_before(parts):
    sae, store, variables, scores = parts
    view = latent_view(sae, store, variables, scores=scores)
    first = view.png()
    view.latent = view.order[2]
    assert view.png() != first
    view.latent = view.order[0]
    assert view.png() == first


def test_a_latent_that_is_never_active_is_drawn(parts):
    figure = plot_latent_card(
        np.zeros(50), np.arange(50.0), np.zeros((50, 3)), np.zeros(3), bin_size_s=1.0,
        unit_names=["a", "b", "c"],
    )  # fmt: skip
    assert "never active" in " ".join(text.get_text() for text in figure.axes[3].texts)


def test_what_does_not_exist_is_named(parts):
    sae, store, variables, scores = parts
    with pytest.raises(DataError, match="no latent 6"):
        latent_view(sae, store, latent=6)
    with pytest.raises(DataError, match="no variable 'speed'"):
        latent_view(sae, store, variables, variable="speed")
    with pytest.raises(DataError, match="scores have 2 rows"):
        latent_view(sae, store, variables, scores=pd.DataFrame({"phase": [1.0, 2.0]}))
    view = latent_view(sae, store, variables, scores=scores)
    with pytest.raises(DataError, match="no latent 99"):
        view.latent = 99
