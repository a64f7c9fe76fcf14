"""Example stores: what goes in comes out; what is damaged is refused by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saebook.data.store import ExampleStore, PartitionedWriter, StoreWriter
from saebook.errors import ConfigError, DataError, SelectionError, StoreError


def write_counts(path: Path, x: np.ndarray | None = None, **settings) -> ExampleStore:
    x = np.arange(12, dtype=np.int64).reshape(6, 2) if x is None else x
    with StoreWriter(path, kind="counts", **settings) as writer:
        writer.add(x, session="a", split="train")
    return ExampleStore.open(path)


# ---- round trip


@settings(max_examples=40, deadline=None)
@given(data=st.data(), d_in=st.integers(1, 4), shard_rows=st.integers(1, 9))
def test_counts_come_back_equal_in_the_smallest_type(data, d_in, shard_rows):
    largest = data.draw(st.sampled_from([3, 255, 256, 65535, 65536, 2**32]))
    segments = data.draw(
        st.lists(
            hnp.arrays(
                np.int64,
                st.tuples(st.integers(0, 12), st.just(d_in)),
                elements=st.integers(0, largest),
            ),
            min_size=1,
            max_size=5,
        )
    )
    trials = [
        data.draw(hnp.arrays(np.int32, len(x), elements=st.integers(-1, 2))) for x in segments
    ]
    expected = np.concatenate(segments)
    if not len(expected):
        return
    with tempfile.TemporaryDirectory() as folder:
        with StoreWriter(f"{folder}/s", kind="counts", shard_rows=shard_rows) as writer:
            for x, trial in zip(segments, trials):
                writer.add(x, session="a", trial=trial, note=np.arange(len(x)))
        store = ExampleStore.open(f"{folder}/s", verify=True)
        found = store.array()
        index = store.index
        order = data.draw(st.permutations(range(len(expected))))
        picked = store.array(rows=order)

    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(picked, expected[order])
    assert found.dtype == np.min_scalar_type(int(expected.max()))
    np.testing.assert_array_equal(index["trial"], np.concatenate(trials))
    np.testing.assert_array_equal(
        index["note"], np.concatenate([np.arange(len(x)) for x in segments])
    )
    kept = [len(x) for x in segments if len(x)]
    np.testing.assert_array_equal(index["segment"], np.repeat(np.arange(len(kept)), kept))
    assert index.groupby("shard").size().max() <= shard_rows
    for _, segment in index.groupby("segment"):
        if len(segment) <= shard_rows:
            assert len(set(segment["shard"])) == 1
        runs = (segment["trial"].diff().fillna(0) != 0).cumsum()
        for _, run in segment.groupby(runs):
            if len(run) <= shard_rows:
                assert len(set(run["shard"])) == 1


def test_all_shards_end_in_the_widest_type(tmp_path):
    with StoreWriter(tmp_path / "s", kind="counts", shard_rows=2) as writer:
        writer.add([[1], [255]], session="a")
        writer.add([[256], [0]], session="a")
        writer.add([[7], [7]], session="a")
    store = ExampleStore.open(tmp_path / "s", verify=True)
    assert store.dtype == "uint16"
    assert len(store.manifest["shards"]) == 3
    assert store.tensor().tolist() == [[1], [255], [256], [0], [7], [7]]
    assert store.tensor().dtype == torch.uint16


@pytest.mark.parametrize(
    ("dtypes", "stored"),
    [
        ([torch.bfloat16, torch.bfloat16], torch.bfloat16),
        ([torch.bfloat16, torch.float32], torch.float32),
        ([torch.float64, torch.float16], torch.float32),
    ],
)
def test_activations_come_back_bit_for_bit(tmp_path, dtypes, stored):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(5, 3, generator=generator).to(dtype) for dtype in dtypes]
    with StoreWriter(tmp_path / "s", kind="activations", shard_rows=5) as writer:
        for number, part in enumerate(parts):
            writer.add(part, session=f"document {number}", trial=number)
    store = ExampleStore.open(tmp_path / "s", verify=True)
    found = store.tensor()
    assert found.dtype == stored
    assert torch.equal(found, torch.cat([part.to(stored) for part in parts]))
    assert store.array().dtype == np.float32
    assert store.tensor(dtype=torch.float64).dtype == torch.float64
    assert np.isnan(store.index["time"].to_numpy()).all()


def test_the_index_features_tables_and_manifest_come_back(tmp_path):
    units = pd.DataFrame({"rate_hz": [1.5, 2.0]}, index=pd.Index([7, 3], name="unit"))
    trials = pd.DataFrame({"start_time": [4397.0], "outcome": ["hit"]})
    with StoreWriter(
        tmp_path / "s",
        kind="counts",
        features=units,
        provenance={"seed": np.int64(3), "path": Path("x.nwb"), "edges": np.array([1, 2])},
        bin_size_s=0.5,
    ) as writer:
        writer.add(
            [[0, 1], [2, 0], [0, 0]],
            session="monday",
            time=[4397.0, 4397.5, 4398.0],
            trial=[0, 0, -1],
            split=["train", "test", "guard"],
            area=["CA1", "CA1", "CA3"],
        )
        writer.add_table("trials", trials)
    store = ExampleStore.open(tmp_path / "s")
    index = store.index
    assert list(index.columns) == [
        "row", "session", "segment", "trial", "time", "split", "shard", "shard_row", "area",
    ]  # fmt: skip
    assert store.index["time"].tolist() == [4397.0, 4397.5, 4398.0]
    assert str(index["session"].dtype) == "category"
    assert str(index["split"].dtype) == "category"
    assert store.index["area"].tolist() == ["CA1", "CA1", "CA3"]
    pd.testing.assert_frame_equal(store.features, units)
    assert store.trials is not None
    pd.testing.assert_frame_equal(store.trials, trials)
    assert store.quality is None
    assert (len(store), store.d_in, store.kind, store.bin_size_s) == (3, 2, "counts", 0.5)
    assert store.rows("test").tolist() == [1]
    assert store.rows().tolist() == [0, 1, 2]
    assert store.manifest["rows_per_split"] == {"train": 1, "test": 1, "guard": 1}
    assert store.provenance["seed"] == 3
    assert store.provenance["edges"] == [1, 2]
    assert {"saebook_version", "created"} < store.provenance.keys()
    assert all(len(shard["sha256"]) == 64 for shard in store.manifest["shards"])
    with pytest.raises(StoreError, match=r"no table 'quality'; it has: trials"):
        store.table("quality")


def test_changing_what_was_added_or_handed_out_changes_nothing(tmp_path):
    x = np.ones((2, 2), np.uint8)
    with StoreWriter(tmp_path / "s", kind="counts") as writer:
        writer.add(x, session="a", split="train")
        x[:] = 9
        writer.add(x, session="a", split="train")
    store = ExampleStore.open(tmp_path / "s")
    assert store.array().tolist() == [[1, 1], [1, 1], [9, 9], [9, 9]]
    index = store.index
    index["split"] = "test"
    store.manifest["d_in"] = 5
    assert len(store.rows("train")) == 4
    assert store.d_in == 2


def test_without_splits_rows_are_unassigned_and_belong_to_no_part(tmp_path):
    with StoreWriter(tmp_path / "s", kind="counts") as writer:
        writer.add([[1], [2]], session="a")
    store = ExampleStore.open(tmp_path / "s")
    assert len(store.rows("unassigned")) == 2
    assert all(not len(store.rows(part)) for part in ("train", "validation", "test", "guard"))


# ---- what can't go in


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[1, -2]], r"row 0, column 1 is -2"),
        ([[0.0, 1.5]], r"row 0, column 1 is 1\.5"),
        ([[0.0, np.nan]], r"is nan"),
        ([[0.0, np.inf]], r"is inf"),
        ([1, 2], r"shape \(2,\)"),
        ([["a", "b"]], r"give numbers"),
        (np.zeros((3, 0)), r"at least one column"),
    ],
)
def test_what_is_no_count_is_refused(tmp_path, x, message):
    with (
        pytest.raises(DataError, match=message),
        StoreWriter(tmp_path / "s", kind="counts") as writer,
    ):
        writer.add(x, session="a")
    assert not list(tmp_path.iterdir())


def test_activations_that_overflow_are_refused(tmp_path):
    with (
        pytest.raises(DataError, match=r"inf in row 1, column 0"),
        StoreWriter(tmp_path / "s", kind="activations") as writer,
    ):
        writer.add(torch.tensor([[1.0], [1e300]], dtype=torch.float64), session="a")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"time": [0.0, 0.5, 0.5]}, r"from 0\.5 to 0\.5 s at row 2"),
        ({"time": [0.0, 0.5, 2.0]}, r"from 0\.5 to 2\.0 s at row 2.*segment of their own"),
        ({"time": [0.0, np.nan, 1.0]}, r"time of row 1 .* is nan"),
        ({"time": [0.0, 0.5]}, r"time has shape \(2,\) for the 3 rows"),
        ({"trial": [0, 1]}, r"trial has shape \(2,\)"),
        ({"trial": [0.5, 1, 1]}, r"holds 0\.5"),
        ({"trial": [2**40, 1, 1]}, r"holds 1099511627776"),
        ({"split": ["train", "valid", "test"]}, r"'valid'.*train, validation, test"),
        ({"shard": 1}, r"'shard'"),
        ({"session": ""}, r"non-empty text"),
    ],
)
def test_a_column_that_does_not_fit_is_refused(tmp_path, columns, message):
    given_columns = {"session": "a", **columns}
    with (
        pytest.raises(DataError, match=message),
        StoreWriter(tmp_path / "s", kind="counts", bin_size_s=0.5) as writer,
    ):
        writer.add(np.zeros((3, 1)), **given_columns)


def test_segments_must_agree_in_columns(tmp_path):
    with StoreWriter(tmp_path / "s", kind="counts") as writer:
        writer.add([[1, 2]], session="a", speed=[1.0])
        with pytest.raises(DataError, match=r"has 3 columns where this store has 2"):
            writer.add([[1, 2, 3]], session="a", speed=[1.0])
        with pytest.raises(DataError, match=r"extra columns \[\] where earlier .*\['speed'\]"):
            writer.add([[1, 2]], session="a")
    assert len(ExampleStore.open(tmp_path / "s")) == 1


def test_settings_out_of_range_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="kind='rates'"):
        StoreWriter(tmp_path / "s", kind="rates")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="bin_size_s=0"):
        StoreWriter(tmp_path / "s", kind="counts", bin_size_s=0)
    with pytest.raises(ConfigError, match="shard_rows=0"):
        StoreWriter(tmp_path / "s", kind="counts", shard_rows=0)
    with pytest.raises(ConfigError, match="provenance"):
        StoreWriter(tmp_path / "s", kind="counts", provenance={"rate": float("nan")})
    with StoreWriter(tmp_path / "s", kind="counts") as writer:
        writer.add([[1]], session="a")
    with pytest.raises(StoreError, match="was used before"):
        writer.__enter__()
    with pytest.raises(StoreError, match="not open"):
        StoreWriter(tmp_path / "s", kind="counts").add([[1]], session="a")


# ---- all or nothing


def test_a_failed_or_empty_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), StoreWriter(tmp_path / "s", kind="counts") as writer:
        writer.add([[1]], session="a")
        raise KeyboardInterrupt
    with (
        pytest.raises(SelectionError, match="nothing was added"),
        StoreWriter(tmp_path / "s", kind="counts") as writer,
    ):
        writer.add(np.zeros((0, 2)), session="a")
    assert not list(tmp_path.iterdir())


def test_an_existing_store_is_replaced_only_when_asked(tmp_path):
    write_counts(tmp_path / "s")
    with pytest.raises(StoreError, match=r"already exists.*overwrite=True"):
        write_counts(tmp_path / "s")
    with (
        pytest.raises(RuntimeError),
        StoreWriter(tmp_path / "s", kind="counts", overwrite=True) as writer,
    ):
        writer.add([[5]], session="b")
        raise RuntimeError
    assert len(ExampleStore.open(tmp_path / "s", verify=True)) == 6
    assert write_counts(tmp_path / "s", np.array([[5]]), overwrite=True).array().tolist() == [[5]]
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_a_store_is_replaced_too_where_folders_cannot_be_exchanged(tmp_path, monkeypatch):
    write_counts(tmp_path / "s")
    monkeypatch.setattr("saebook.data.store.atomic._exchange", lambda one, other: False)
    assert write_counts(tmp_path / "s", np.array([[5]]), overwrite=True).array().tolist() == [[5]]
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_overwriting_never_removes_what_is_no_store(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(StoreError, match="not an example store"):
        write_counts(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


_KILLED = """
import os, signal, sys
from saebook.data.store import StoreWriter
with StoreWriter(sys.argv[1], kind="counts", shard_rows=1) as writer:
    writer.add([[1], [2], [3]], session="a")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_no_store_and_the_next_one_clears_up(tmp_path, project):
    path = tmp_path / "s"
    environment = {**os.environ, "PYTHONPATH": str(project / "lib")}
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not path.exists()
    (partial,) = tmp_path.iterdir()
    assert any(partial.glob("shard-*"))
    with pytest.raises(StoreError, match=r"no store at .*partial-\d+ beside it is unfinished"):
        ExampleStore.open(path)
    assert write_counts(path).array().shape == (6, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_the_partial_folder_of_a_living_writer_is_left_alone(tmp_path):
    path = tmp_path / "s"
    with StoreWriter(path, kind="counts") as writer:
        writer.add([[1]], session="a")
        with pytest.raises(StoreError, match="already being written by this process"):
            write_counts(path)
        # A process of this id runs, so its folder may be in use.
        other = tmp_path / f"s.partial-{os.getppid()}"
        other.mkdir()
    write_counts(path, overwrite=True)
    assert other.is_dir()


# ---- damage


def shard_of(store: ExampleStore) -> Path:
    return store.path / store.manifest["shards"][0]["file"]


def test_a_truncated_shard_is_named(tmp_path):
    store = write_counts(tmp_path / "s")
    shard = shard_of(store)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"shard-00000.* has \d+ bytes where .* says \d+"):
        ExampleStore.open(tmp_path / "s")
    with pytest.raises(StoreError, match=r"shard-00000"):
        store.tensor()


def test_an_altered_shard_is_named_when_read(tmp_path):
    store = write_counts(tmp_path / "s")
    content = bytearray(shard_of(store).read_bytes())
    content[-1] ^= 1
    shard_of(store).write_bytes(content)
    reopened = ExampleStore.open(tmp_path / "s")
    with pytest.raises(StoreError, match=r"shard-00000.* was altered: its sha256"):
        reopened.array()
    with pytest.raises(StoreError, match=r"shard-00000.* was altered"):
        ExampleStore.open(tmp_path / "s", verify=True)


@pytest.mark.parametrize(
    "file",
    ["shard-00000.safetensors", "index.parquet", "features.parquet", "tables/trials.parquet"],
)
def test_a_missing_file_is_named(tmp_path, file):
    with StoreWriter(tmp_path / "s", kind="counts") as writer:
        writer.add([[1]], session="a")
        writer.add_table("trials", pd.DataFrame({"start_time": [0.0]}))
    (tmp_path / "s" / file).unlink()
    with pytest.raises(StoreError, match=rf"{file} is missing"):
        ExampleStore.open(tmp_path / "s")


def edit_manifest(path: Path, **changes) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.update(changes)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_newer_schema_says_what_it_needs(tmp_path):
    write_counts(tmp_path / "s")
    edit_manifest(tmp_path / "s", schema_version=99)
    with pytest.raises(StoreError, match=r"schema version 99.*up to 1: update saebook"):
        ExampleStore.open(tmp_path / "s")


def test_a_manifest_that_contradicts_the_shards_is_refused(tmp_path):
    write_counts(tmp_path / "s")
    edit_manifest(tmp_path / "s", d_in=3)
    with pytest.raises(StoreError, match=r"uint8 \(6, 2\) where the manifest says uint8 \(6, 3\)"):
        ExampleStore.open(tmp_path / "s").array()
    edit_manifest(tmp_path / "s", d_in=2, n_rows=7)
    with pytest.raises(StoreError, match="disagree"):
        ExampleStore.open(tmp_path / "s").array()


def test_what_is_no_store_is_told_apart(tmp_path):
    with pytest.raises(StoreError, match="there is no store at"):
        ExampleStore.open(tmp_path / "none")
    (tmp_path / "file.nwb").write_bytes(b"")
    with pytest.raises(StoreError, match="is a file"):
        ExampleStore.open(tmp_path / "file.nwb")
    with pytest.raises(StoreError, match=r"has no manifest\.json \(found: file\.nwb\)"):
        ExampleStore.open(tmp_path)
    for text, message in [("{", "not readable JSON"), ("[]", "not the manifest"), ("{}", "format")]:
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(StoreError, match=message):
            ExampleStore.open(tmp_path)
    for key in ("shards", "index", "provenance"):
        write_counts(tmp_path / key)
        manifest = json.loads((tmp_path / key / "manifest.json").read_text())
        del manifest[key]
        (tmp_path / key / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(StoreError, match=f"lacks {key}"):
            ExampleStore.open(tmp_path / key)


def test_rows_that_are_not_there_are_refused(tmp_path):
    store = write_counts(tmp_path / "s")
    with pytest.raises(ConfigError, match="split='valid'"):
        store.tensor("valid")
    with pytest.raises(DataError, match=r"rows run from -1 to 5; .* rows 0 to 5"):
        store.array(rows=[5, -1])
    with pytest.raises(DataError, match="whole numbers"):
        store.array(rows=np.array([0.5]))
    with pytest.raises(ConfigError, match="not both"):
        store.array("train", rows=[0])
    assert store.array(rows=[]).shape == (0, 2)
    assert store.tensor("test").shape == (0, 2)


# ---- partitions


def test_partitions_are_stores_of_their_own(tmp_path):
    with PartitionedWriter(tmp_path / "s", provenance={"files": 2}) as parent:
        for n_units, name in enumerate(["monday", "tuesday"], start=1):
            with parent.partition(name, kind="counts") as writer:
                writer.add(np.ones((4, n_units)), session=name, split="train")
        parent.add_table("summary", pd.DataFrame({"session": ["monday", "tuesday"]}))
        assert not (tmp_path / "s").exists()
    store = ExampleStore.open(tmp_path / "s", verify=True)
    assert store.partitions == ("monday", "tuesday")
    assert [store.partition(name).d_in for name in store.partitions] == [1, 2]
    assert store.provenance["files"] == 2
    assert store.table("summary")["session"].tolist() == ["monday", "tuesday"]
    for use in (
        lambda: store.d_in,
        lambda: len(store),
        lambda: store.index,
        store.rows,
        store.array,
    ):
        with pytest.raises(StoreError, match="monday, tuesday"):
            use()
    with pytest.raises(StoreError, match=r"no partition 'friday'; it has: monday, tuesday"):
        store.partition("friday")
    assert store.partition("monday").partitions == ()


def test_a_partition_that_failed_is_left_out(tmp_path):
    with PartitionedWriter(tmp_path / "s") as parent:
        with pytest.raises(DataError), parent.partition("broken", kind="counts") as writer:
            writer.add([[-1]], session="broken")
        with parent.partition("sound", kind="counts") as writer:
            writer.add([[1]], session="sound")
        with pytest.raises(ConfigError, match="'sound' was asked for before"):
            parent.partition("sound", kind="counts")
        with pytest.raises(ConfigError, match="file name"):
            parent.partition("../elsewhere", kind="counts")
    assert ExampleStore.open(tmp_path / "s").partitions == ("sound",)


def test_no_finished_partition_is_no_store(tmp_path):
    with (
        pytest.raises(SelectionError, match="begun: monday"),
        PartitionedWriter(tmp_path / "s") as parent,
    ):
        parent.partition("monday", kind="counts")
    assert not list(tmp_path.iterdir())


def test_damage_within_a_partition_is_found(tmp_path):
    with (
        PartitionedWriter(tmp_path / "s") as parent,
        parent.partition("monday", kind="counts") as writer,
    ):
        writer.add([[1]], session="monday")
    shard = tmp_path / "s" / "partitions" / "monday" / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes() + b"0")
    with pytest.raises(StoreError, match="monday/shard-00000"):
        ExampleStore.open(tmp_path / "s", verify=True)


# ---- imports


def test_the_data_package_imports_lightly(project):
    code = (
        "import sys, saebook.data, saebook.data.store\n"
        "saebook.data.ExampleStore\n"
        "print([m for m in ('torch', 'pynwb', 'matplotlib') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(project / "lib")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_of_data_can_be_had():
    import saebook.data

    for name in saebook.data.__all__:
        assert getattr(saebook.data, name) is not None
    assert set(saebook.data.__all__) <= set(dir(saebook.data))
    with pytest.raises(AttributeError, match="no attribute 'read_recordings'"):
        saebook.data.read_recordings  # noqa: B018
