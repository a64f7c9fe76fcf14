"""The README's Python runs as it stands."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import saebook.training.recommending
from saebook.data import simulate_session

README = Path(__file__).parents[2] / "README.md"


def test_the_example_goes_from_a_file_to_a_score_card(tmp_path, monkeypatch, capsys):
    simulate_session(tmp_path / "my_session.nwb", n_units=20, n_trials=20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(saebook.training.recommending, "N_STEPS", 30)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a recording this small is small
        for block in blocks:
            exec(block, names)
    printed = capsys.readouterr().out
    assert "d_sae = " in printed and "fvu" in printed.lower()
    assert names["run"].sae.config.d_in == names["store"].d_in == names["quality"]["kept"].sum()
