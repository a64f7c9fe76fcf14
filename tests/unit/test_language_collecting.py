"""Collected activations: the right rows, the right bytes, whatever happens in between."""

from __future__ import annotations

import errno
import os
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from saebook.data.store import ExampleStore, GrowingStore, StoreWriter
from saebook.data.store import shards as shard_files
from saebook.errors import ConfigError, DataError, SelectionError, StoreError
from saebook.language import (
    DiskBudget,
    LanguageModel,
    MaskRule,
    TokenBatch,
    byte_tokenizer,
    collect_activations,
    token_batches,
    unfinished,
)

TEXTS = [
    "Call me Ishmael. Some years ago - never mind how long precisely -",
    "",
    "having little or no money in my purse, and nothing particular to interest me on shore, "
    "I thought I would sail about a little and see the watery part of the world.",
    "It is a way I have",
    "   ",
    "of driving off the spleen and regulating the circulation.",
    "Whenever I find myself growing grim about the mouth; whenever it is a damp, drizzly November "
    "in my soul; whenever I find myself involuntarily pausing before coffin warehouses, and "
    "bringing up the rear of every funeral I meet",
]
SETTINGS = {"layer": 1, "context": 16, "batch_size": 3, "progress": False}


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(
        vocab_size=257, hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPTNeoXForCausalLM(config).eval()
    return LanguageModel(model, byte_tokenizer(), "tiny")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_rows_equal_output_hidden_states_at_the_positions_that_count(lm, tmp_path):
    store = collect_activations(lm, TEXTS, out=tmp_path / "s", **SETTINGS)
    rows = []
    for batch in token_batches(lm, TEXTS, context=16, batch_size=3):
        with torch.no_grad():
            state = lm.model(**batch.inputs(), output_hidden_states=True).hidden_states[2]
        keep = batch.attention_mask.bool()
        keep[:, 0] = False
        rows.append(state[keep])
    assert torch.equal(store.tensor(), torch.cat(rows))
    assert store.provenance["counts"]["left_out"]["massive_norm"] == 0


def test_the_index_tells_document_position_token_and_split(lm, tmp_path):
    store = collect_activations(lm, TEXTS, out=tmp_path / "s", **SETTINGS)
    index: Any = store.index
    for number, text in enumerate(TEXTS):
        rows = index[index["document"] == number]
        ids = np.array(lm.tokenizer(text)["input_ids"]) if text.strip() else np.zeros(0, int)
        expected = [i for i in range(len(ids)) if i % 16]
        assert rows["position"].tolist() == expected
        assert rows["token"].tolist() == ids[expected].tolist()
        assert rows["split"].nunique() <= 1
        assert (rows["trial"] == number).all()
    # A segment is one run of positions: within it they follow each other, between they don't.
    steps = index.groupby("segment")["position"].diff().dropna()
    assert (steps == 1).all()
    assert index["segment"].diff().dropna().isin([0, 1]).all()
    assert index.groupby("document")["split"].first().astype(str).to_dict() == {
        0: "train", 2: "validation", 3: "train", 5: "train", 6: "train",
    }  # fmt: skip
    counts = store.provenance["counts"]
    assert (counts["documents"], counts["empty"], counts["cut"]) == (7, 2, 5)
    assert counts["tokens"] == len(store) + counts["left_out"]["first"]
    assert store.provenance["collection"]["mask"] == MaskRule().to_dict()


def test_a_store_reads_like_any_other(lm, tmp_path):
    store = collect_activations(
        lm, TEXTS, out=tmp_path / "s", n_tokens=100, num_shards=4, **SETTINGS
    )
    store.verify()
    assert len(store) == 100
    index: Any = store.index
    with StoreWriter(tmp_path / "plain", kind="activations") as writer:
        for _, rows in index.groupby("segment"):
            writer.add(
                store.tensor(rows=rows["row"].to_numpy()),
                session="a",
                trial=rows["trial"].to_numpy(),
                split=rows["split"].to_numpy(),
            )
    plain = ExampleStore.open(tmp_path / "plain")
    shared = [c for c in plain.index if c not in ("session", "shard", "shard_row")]
    assert index[shared].equals(plain.index[shared])
    assert torch.equal(store.tensor("train"), plain.tensor("train"))


def test_shards_end_with_a_document_unless_it_is_longer(lm, tmp_path):
    store = collect_activations(
        lm, TEXTS, out=tmp_path / "s", n_tokens=300, num_shards=3, **SETTINGS
    )
    index: Any = store.index
    sizes = [shard["rows"] for shard in store.manifest["shards"]]
    assert max(sizes) <= 100
    per_document = index.groupby("document")["shard"].nunique()
    lengths = index["document"].value_counts()
    assert all(per_document[number] == 1 for number in lengths[lengths <= 100].index)
    assert per_document.max() > 1


def collect_in_a_process(run, kill) -> int:
    """Run in a child that gets SIGKILL where `kill` says; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            kill()
            run()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def kill_at(module, name: str, nth: int, before: bool):
    """A killer: SIGKILL before or after the n-th call of a function."""

    def arm() -> None:
        original, calls = getattr(module, name), [0]

        def counted(*args, **settings):
            calls[0] += 1
            if calls[0] == nth and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **settings)
            if calls[0] == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(module, name, counted)

    return arm


def test_killed_anywhere_and_gone_on_the_bytes_are_those_of_an_undisturbed_run(lm, tmp_path):
    from saebook.data.store import growing, layout

    def run(name: str) -> ExampleStore:
        return collect_activations(
            lm, TEXTS, out=tmp_path / name, n_tokens=400, num_shards=6, **SETTINGS
        )

    expected = contents(run("whole").path)
    points = [(GrowingStore, "add", nth, True) for nth in (1, 6)]
    points += [(growing, "write_state", 2, before) for before in (True, False)]
    points += [(shard_files, "write", nth, True) for nth in (2, 5)]
    points += [(os, "replace", nth, True) for nth in (1, 4)]
    points += [(layout, "write_manifest", 1, before) for before in (True, False)]
    points += [(Path, "unlink", nth, False) for nth in (1, 3)]
    points += [(Path, "rename", 1, True)]
    died = 0
    for number, (module, name, nth, before) in enumerate(points):
        target = f"killed{number}"
        status = collect_in_a_process(lambda: run(target), kill_at(module, name, nth, before))  # noqa: B023
        died += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert contents(run(target).path) == expected, (name, nth, before)
        assert not unfinished(tmp_path / target)
    assert died == len(points)


def test_killed_again_and_again_leaves_neither_gap_nor_duplicate(lm, tmp_path):
    def run(name: str) -> ExampleStore:
        return collect_activations(lm, TEXTS, out=tmp_path / name, num_shards=None, **SETTINGS)

    expected = contents(run("whole").path)
    for nth in (3, 2, 4):
        collect_in_a_process(
            lambda: run("killed"), kill_at(GrowingStore, "save", nth, before=False)
        )
        collect_in_a_process(lambda: run("killed"), kill_at(GrowingStore, "add", nth, before=False))
    assert contents(run("killed").path) == expected


def test_an_interrupt_keeps_what_was_collected(lm, tmp_path, monkeypatch):
    expected = contents(collect_activations(lm, TEXTS, out=tmp_path / "whole", **SETTINGS).path)
    add, calls = GrowingStore.add, []

    def interrupted(self, *args, **settings):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return add(self, *args, **settings)

    monkeypatch.setattr(GrowingStore, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect_activations(lm, TEXTS, out=tmp_path / "s", **SETTINGS)
    with pytest.raises(StoreError, match="unfinished"):
        ExampleStore.open(tmp_path / "s")
    store = collect_activations(lm, TEXTS, out=tmp_path / "s", **SETTINGS)
    assert contents(store.path) == expected
    # Five batches were not read again.
    assert len(calls) == 6 + len(list(token_batches(lm, TEXTS, context=16, batch_size=3))) - 5


def test_a_finished_collection_is_opened_and_another_is_refused(lm, tmp_path):
    first = collect_activations(lm, TEXTS, out=tmp_path / "s", **SETTINGS)
    before = contents(first.path)
    again = collect_activations(lm, TEXTS, out=tmp_path / "s", **SETTINGS)
    assert contents(again.path) == before
    with pytest.raises(StoreError, match="layer: 1 there, 0 asked for"):
        collect_activations(lm, TEXTS, out=tmp_path / "s", **{**SETTINGS, "layer": 0})
    with StoreWriter(tmp_path / "other", kind="activations") as writer:
        writer.add([[1.0]], session="a")
    with pytest.raises(StoreError, match="not collected here"):
        collect_activations(lm, TEXTS, out=tmp_path / "other", **SETTINGS)


def begin(lm, out, monkeypatch, **settings) -> None:
    """Leave an unfinished collection."""

    def full(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GrowingStore, "finish", full)
        with pytest.raises(KeyboardInterrupt):
            collect_activations(lm, TEXTS, out=out, **{**SETTINGS, **settings})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"layer": 0}, "layer: 1 there, 0 asked for"),
        ({"kind": "mlp"}, "kind: 'residual' there, 'mlp'"),
        ({"context": 8}, "context: 16 there, 8"),
        ({"mask": MaskRule(skip_first=2)}, "mask: "),
        ({"dtype": "bf16"}, "dtype: 'float32' there, 'bfloat16'"),
        ({"seed": 1}, "seed: 0 there, 1"),
    ],
)
def test_other_settings_are_not_mixed_into_an_unfinished_collection(
    lm, tmp_path, monkeypatch, changed, said
):
    begin(lm, tmp_path / "s", monkeypatch)
    with pytest.raises(StoreError, match=said):
        collect_activations(lm, TEXTS, out=tmp_path / "s", **{**SETTINGS, **changed})
    # It is still there, and can be thrown away.
    assert unfinished(tmp_path / "s")
    settings = {**SETTINGS, **changed}
    fresh = collect_activations(lm, TEXTS, out=tmp_path / "s", restart=True, **settings)
    assert len(fresh) > 0


def test_another_model_or_text_is_not_mixed_in(lm, tmp_path, monkeypatch):
    begin(lm, tmp_path / "s", monkeypatch)
    torch.manual_seed(1)
    other = LanguageModel(type(lm.model)(lm.model.config).eval(), lm.tokenizer, "tiny")
    with pytest.raises(StoreError, match="model_fingerprint"):
        collect_activations(other, TEXTS, out=tmp_path / "s", **SETTINGS)
    with pytest.raises(StoreError, match="text: "):
        collect_activations(lm, [*TEXTS, "more"], out=tmp_path / "s", **SETTINGS)


def test_two_processes_do_not_write_one_store(lm, tmp_path, monkeypatch):
    begin(lm, tmp_path / "s", monkeypatch)
    handle = os.open(tmp_path / "s.partial", os.O_RDONLY)
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(StoreError, match="being written by another process"):
            collect_activations(lm, TEXTS, out=tmp_path / "s", **SETTINGS)
    finally:
        os.close(handle)


def test_a_full_disk_in_mid_shard_is_survived(lm, tmp_path, monkeypatch):
    settings = {**SETTINGS, "n_tokens": 400, "num_shards": 6}
    expected = contents(collect_activations(lm, TEXTS, out=tmp_path / "whole", **settings).path)
    write, calls = shard_files.write, []

    def full(path, parts):
        calls.append(path)
        if len(calls) == 5:
            Path(path).write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, parts)

    monkeypatch.setattr(shard_files, "write", full)
    with pytest.raises(StoreError, match=r"the disk is full at .*; [1-9]\d* rows are safe there"):
        collect_activations(lm, TEXTS, out=tmp_path / "s", **settings)
    assert not list((tmp_path / "s.partial").glob("*.tmp"))
    store = collect_activations(lm, TEXTS, out=tmp_path / "s", **settings)
    assert contents(store.path) == expected


def test_a_store_that_cannot_fit_is_refused_before_it_starts(lm, tmp_path):
    with pytest.raises(StoreError, match=r"needs 8,\d{3}\.\d\d GB .* 8 x 4 bytes .* free"):
        collect_activations(lm, TEXTS, out=tmp_path / "s", **SETTINGS, n_tokens=10**11)
    assert not list(tmp_path.iterdir())


def test_the_disk_budget_is_printed_first(lm, tmp_path, capsys):
    settings = {**SETTINGS, "progress": True, "n_tokens": 100, "num_shards": 4}
    collect_activations(lm, TEXTS, out=tmp_path / "s", **settings)
    printed = capsys.readouterr().out
    assert printed.startswith("tiny, layer 1 residual: 100 rows x 8 x 4 bytes (fp32)")
    assert "4 shards of 25 rows" in printed
    large = DiskBudget.of(8_000_000, 7168, "bf16", num_shards=4)
    assert (large.shard_rows, large.n_bytes) == (2_000_000, 114_688_000_000)


class Overflowing(torch.nn.Module):
    """A block that overflows at one token."""

    def __init__(self, block: torch.nn.Module, value: float | None) -> None:
        super().__init__()
        self.block, self.value = block, value

    def forward(self, x, *args, **settings):
        out = self.block(x, *args, **settings)
        if self.value is not None and out.shape[1] > 3:
            out[:, 3, 0] = self.value
        return out


@pytest.mark.parametrize(
    ("value", "dtype"), [(float("nan"), "fp32"), (float("inf"), "bf16"), (3.4e38, "bf16")]
)
def test_overflow_is_an_error_or_a_counted_skip(lm, tmp_path, value, dtype):
    import copy

    model = copy.deepcopy(lm.model)
    layers = model.gpt_neox.layers
    for number in range(len(layers)):
        layers[number] = Overflowing(layers[number], value if number == 1 else None)
    broken = LanguageModel(model, lm.tokenizer, "broken")
    settings = {**SETTINGS, "dtype": dtype}
    with pytest.raises(DataError, match=r"NaN or infinite .* document 0 at position 3"):
        collect_activations(broken, TEXTS, out=tmp_path / "s", **settings)
    store = collect_activations(broken, TEXTS, out=tmp_path / "t", on_overflow="skip", **settings)
    batches = token_batches(lm, TEXTS, context=16, batch_size=3)
    reach = sum(int(batch.attention_mask[:, 3:4].sum()) for batch in batches)
    assert store.provenance["counts"]["left_out"]["not_finite"] == reach > 20
    assert torch.isfinite(store.tensor()).all()
    position = store.index["position"].to_numpy()
    assert not (position % 16 == 3).any()


def test_bf16_rows_are_the_rounded_ones(lm, tmp_path):
    wide = collect_activations(lm, TEXTS, out=tmp_path / "wide", **SETTINGS)
    half = collect_activations(lm, TEXTS, out=tmp_path / "half", dtype="bf16", **SETTINGS)
    assert half.dtype == "bfloat16"
    assert torch.equal(half.tensor(), wide.tensor().bfloat16())


def test_images_are_collected_by_patch(tmp_path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4,
    )  # fmt: skip
    lm = LanguageModel(transformers.ViTForImageClassification(config).eval(), None, "ViT")
    images = torch.rand(5, 3, 8, 8)
    store = collect_activations(
        lm, images, layer=0, out=tmp_path / "s", batch_size=2, progress=False
    )
    with torch.no_grad():
        state = lm.model(images, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(store.tensor(), state[:, 1:].reshape(20, 8))
    assert store.index["position"].tolist() == [0, 1, 2, 3] * 5
    assert store.index["document"].tolist() == [i for i in range(5) for _ in range(4)]
    with pytest.raises(DataError, match="given images"):
        collect_activations(lm, TEXTS, layer=0, out=tmp_path / "t", progress=False)


def test_memory_does_not_grow_with_the_text(lm, tmp_path):
    peaks = []
    for n_tokens in (2_000, 8_000):
        texts = TEXTS * (n_tokens // 300)
        tracemalloc.start()
        buffers: list[int] = []
        put = GrowingStore._put

        def watched(self, values, columns, put=put, buffers=buffers):
            put(self, values, columns)
            buffers.append(self._buffer.nbytes)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GrowingStore, "_put", watched)
            patch.setattr("saebook.language.budget._SHARD_BYTES", 1000 * 8 * 4)
            collect_activations(
                lm, texts, out=tmp_path / str(n_tokens), n_tokens=n_tokens,
                **{**SETTINGS, "batch_size": 16, "context": 32},
            )  # fmt: skip
        peaks.append((tracemalloc.get_traced_memory()[1], max(buffers)))
        tracemalloc.stop()
    (small, small_buffer), (large, large_buffer) = peaks
    assert max(small_buffer, large_buffer) <= (1000 + 16 * 32) * 8 * 4
    # Four times the text; what may grow is a line of the manifest for each shard.
    assert large < 1.2 * small + 100_000


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"dtype": "fp16"}, "dtype='fp16'"),
        ({"n_tokens": 0}, "n_tokens=0"),
        ({"num_shards": 2}, "num_shards=2 needs n_tokens"),
        ({"on_overflow": "ignore"}, "on_overflow"),
        ({"layer": 9}, "layer=9, but GPTNeoXForCausalLM has 3 blocks"),
        ({"device": "cpu"}, "for a model by name"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(lm, tmp_path, wrong, said):
    with pytest.raises(ConfigError, match=said):
        collect_activations(lm, TEXTS, out=tmp_path / "s", **{**SETTINGS, **wrong})
    assert not list(tmp_path.iterdir())


def test_a_text_that_leaves_nothing_is_an_error(lm, tmp_path):
    with pytest.raises(SelectionError, match="nothing was added"):
        collect_activations(lm, ["", "a"], out=tmp_path / "s", **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_one_document_cannot_be_held_out_and_that_is_said(lm, tmp_path, capsys):
    settings = {**SETTINGS, "progress": True}
    collect_activations(lm, [TEXTS[2]], out=tmp_path / "s", **settings)
    assert "no document fell to validation and test" in capsys.readouterr().out


def test_a_batch_of_one_position_has_a_mask():
    batch = TokenBatch.of([[5]])
    assert not MaskRule().keep(batch, torch.ones(1, 1, 4)).any()
