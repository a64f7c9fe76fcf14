"""Models that are kept, activations that chapters share, and the command that collects them."""

from __future__ import annotations

import json

import pytest
import torch

from saebook.__main__ import main
from saebook.data import ExampleStore
from saebook.errors import ConfigError
from saebook.language import (
    DocumentSplits,
    LanguageModel,
    load_text,
    small,
    small_model,
    small_model_record,
    train_small_model,
    unigram_entropy,
)
from saebook.language.kept import made_once, save_language_model
from saebook.models import load_sae
from saebook.notebook import collected_activations

TEXTS = [text[:1500] for text in load_text("moby_dick")[:12]]
TINY = {"vocab_size": 257, "d_model": 32, "n_layers": 2, "context": 16, "progress": False}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[LanguageModel, list[float]]:
    return train_small_model(TEXTS, n_steps=40, batch_size=8, **TINY)


def test_a_small_model_learns_and_its_seed_decides(tiny):
    lm, losses = tiny
    assert losses[-1] < losses[0] - 1
    again, other = (
        train_small_model(TEXTS, n_steps=2, batch_size=8, seed=seed, **TINY)[1] for seed in (0, 1)
    )
    assert again == pytest.approx(losses[:1] + again[1:]) != other
    assert 1 < unigram_entropy(lm.tokenizer, TEXTS) < 5.6


def test_what_is_made_once_is_made_once(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "file").write_text("x")

    for _ in range(2):
        assert (made_once(tmp_path / "kept", make) / "file").read_text() == "x"
    assert len(made) == 1

    def fails(folder):
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        made_once(tmp_path / "other", fails)
    assert not (tmp_path / "other").exists()


def test_the_kept_model_is_trained_on_training_documents_alone(tiny, tmp_path, monkeypatch):
    seen = []

    def train(texts, **settings):
        seen.extend(texts)
        return tiny

    monkeypatch.setattr(small, "train_small_model", train)
    lm = small_model(cache=tmp_path, device="cpu")
    assert (lm.name, lm.fingerprint()) == ("small", tiny[0].fingerprint())
    splits, moby = DocumentSplits((0.7, 0.15, 0.15)), load_text("moby_dick")
    wanted = {text: splits.of(number) == "train" for number, text in enumerate(moby)}
    assert all((text in seen) == is_train for text, is_train in wanted.items())
    record = small_model_record(tmp_path)
    assert record["losses"] == tiny[1]
    drawn = small_model(cache=tmp_path, device="cpu", random_weights=True)
    assert drawn.name == "small-random"
    assert drawn.fingerprint() != lm.fingerprint()


def test_chapters_share_what_was_collected(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SAEBOOK_ACTIVATIONS", str(tmp_path))
    settings = {"layer": 0, "text": TEXTS, "n_tokens": 200, "context": 16, "progress": False}
    first = collected_activations(tiny[0], **settings)
    assert collected_activations(tiny[0], **settings).path == first.path
    other = collected_activations(tiny[0], **{**settings, "layer": 1})
    assert other.path != first.path
    assert len(first) == len(other) == 200
    assert not torch.equal(first.tensor(), other.tensor())


@pytest.fixture
def folder(tiny, tmp_path):
    save_language_model(tiny[0], tmp_path / "model")
    with (tmp_path / "texts.jsonl").open("w") as file:
        file.writelines(json.dumps({"content": text}) + "\n" for text in TEXTS)
    return tmp_path


def test_the_flags_of_the_older_script_collect_and_train(folder, capsys):
    command = (
        f"collect --model {folder / 'model'} --text {folder / 'texts.jsonl'} --data_dir "
        f"{folder / 'store'} --output_dir {folder / 'sae'} --num_shards 4 --target_layer 1 "
        "--d_model 32 --d_sae 64 --l1_coeff 5e-3 --lr 3e-4 --batch_size 256 --epochs 2 "
        "--normalize_activations expected_average_only_in --apply_b_dec_to_input "
        "--n_tokens 1200 --context 32 --device cpu"
    )
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "1,200 rows x 32 x 4 bytes (fp32)" in printed
    assert "left out: " in printed
    assert "FVU" in printed
    store = ExampleStore.open(folder / "store", verify=True)
    assert (len(store), store.d_in) == (1200, 32)
    sae = load_sae(folder / "sae" / "sae")
    assert sae.config.input_scaling == "scale_mean_norm"
    assert sae.config.sparsity_coefficient == pytest.approx(5e-3 * 32)


def test_a_model_of_another_width_is_refused(folder, capsys):
    command = f"collect --model {folder / 'model'} --target_layer 0 --d_model 64 --out {folder}/s"
    assert main(command.split()) == 2
    assert "--d_model 64, but" in capsys.readouterr().err
    assert not (folder / "s").exists()


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(ConfigError, match="vocab_size=100"):
        train_small_model(TEXTS, vocab_size=100)
