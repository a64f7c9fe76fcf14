"""The README's Python runs as it stands."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import saebook.training.recommending
from saebook.data import simulate_session
from saebook.evaluation import read_latents

README = Path(__file__).parents[2] / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_example_goes_from_a_file_to_a_score_card(tmp_path, monkeypatch, capsys):
    simulate_session(tmp_path / "my_session.nwb", n_units=20, n_trials=20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(saebook.training.recommending, "N_STEPS", 30)
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a recording this small is small
        exec(python_blocks()[0], names)
    printed = capsys.readouterr().out
    assert "d_sae = " in printed and "fvu" in printed.lower()
    assert names["run"].sae.config.d_in == names["store"].d_in == names["quality"]["kept"].sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(python_blocks()[1], names)
    assert "smallest attainable p" in capsys.readouterr().out
    assert read_latents("with_latents.nwb").discovery is not None


def test_the_example_on_a_language_model_goes_from_a_text_to_a_score_card(
    tmp_path, monkeypatch, capsys
):
    block = python_blocks()[2]
    for written, smaller in {
        '"smollm2"': '"small"', "layer=14": "layer=1", "Site(14)": "Site(1)", "20_000": "10_000",
        "k=32)": "k=8)", "fit(": "fit(train=TrainConfig(n_steps=30), config=", ", store)": ", data=store)",
        "import fit": "import TrainConfig, fit",
    }.items():  # fmt: skip
        assert block.count(written) == 1, written
        block = block.replace(written, smaller)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a text this short is short
        exec(block, names)
    assert "Δloss" in capsys.readouterr().out
    assert names["run"].sae.config.d_in == names["lm"].d_model
