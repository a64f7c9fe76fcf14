"""Splits and windows: whole trials or blocks of time, guard gaps kept, no border crossed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saebook.data.store import ExampleStore, StoreWriter, assign_splits, split_fractions, windows
from saebook.errors import ConfigError, DataError, SelectionError

PARTS = ("train", "validation", "test")


def bins(n: int, width: float = 0.05, start: float = 0.0) -> np.ndarray:
    return start + width * np.arange(n)


def trial_index(n_trials: int, rows: int, between: int = 0, width: float = 0.05) -> pd.DataFrame:
    one = [*range(rows + between)]
    trial = np.concatenate(
        [np.where(np.array(one) < rows, number, -1) for number in range(n_trials)]
    )
    return pd.DataFrame({"session": "a", "trial": trial, "time": bins(len(trial), width)})


def smallest_gap(index: pd.DataFrame, labels: np.ndarray, width: float) -> float:
    """Least empty time between rows of different splits, by comparing all pairs."""
    smallest = np.inf
    for _, rows in index.assign(label=labels).groupby("session", observed=True):
        kept = rows[rows["label"] != "guard"]
        time, label = np.asarray(kept["time"]), np.asarray(kept["label"])
        apart = np.abs(time[:, None] - time[None, :]) - width
        apart = apart[label[:, None] != label[None, :]]
        smallest = min(smallest, apart.min(initial=np.inf))
    return smallest


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    by=st.sampled_from(["trial", "time"]),
    guard_s=st.sampled_from([0.0, 0.05, 0.2, 0.45]),
    between=st.sampled_from(["guard", "nearest"]),
    seed=st.integers(0, 5),
)
def test_every_row_has_one_label_and_the_guard_gap_is_kept(data, by, guard_s, between, seed):
    sessions = []
    for session in range(data.draw(st.integers(1, 2))):
        lengths = data.draw(st.lists(st.integers(20, 40), min_size=6, max_size=9))
        gap = data.draw(st.integers(0, 5))
        trial = np.concatenate(
            [[number] * length + [-1] * gap for number, length in enumerate(lengths)]
        )
        start = data.draw(st.sampled_from([0.0, -3.0, 4397.0]))
        sessions.append(
            pd.DataFrame(
                {"session": str(session), "trial": trial, "time": bins(len(trial), start=start)}
            )
        )
    index = pd.concat(sessions, ignore_index=True)
    # The order of rows must not matter.
    index = index.sample(frac=1, random_state=seed, ignore_index=True)

    labels = assign_splits(index, by=by, guard_s=guard_s, seed=seed, between=between)

    assert labels.shape == (len(index),)
    assert set(labels) <= {*PARTS, "guard"}
    for _, rows in index.assign(label=labels).groupby("session"):
        assert set(PARTS) <= set(rows["label"])
        if by == "trial":
            inside = rows[(rows["trial"] >= 0) & (rows["label"] != "guard")]
            assert all(len(set(label)) == 1 for _, label in inside.groupby("trial")["label"])
            if between == "guard":
                assert (rows.loc[rows["trial"] < 0, "label"] == "guard").all()
    assert smallest_gap(index, labels, 0.05) >= guard_s - 1e-6
    if guard_s == 0 and (by == "time" or between == "nearest"):
        assert "guard" not in labels
    again = assign_splits(index, by=by, guard_s=guard_s, seed=seed, between=between)
    np.testing.assert_array_equal(labels, again)


def test_guard_takes_the_rows_within_the_gap_and_no_more():
    # One cycle of 60 bins of 1 s: 3 blocks, so 2 boundaries, each with 2 rows on both sides.
    index = pd.DataFrame({"time": bins(60, width=1.0)})
    labels = assign_splits(index, by="time", fractions=(0.5, 0.25, 0.25), guard_s=2.0)
    cycles = 1 + np.count_nonzero(labels == "guard") // 12
    edges = np.flatnonzero(labels[:-1] != labels[1:])
    assert cycles == 1
    assert np.count_nonzero(labels == "guard") == 8
    assert len(edges) == 4
    assert np.diff(edges)[[0, 2]].tolist() == [4, 4]


def test_a_trial_apart_by_more_than_the_gap_loses_nothing():
    # 10 empty bins of 0.05 s between trials: a gap of 0.5 s costs nothing, one of 0.6 s does.
    index = trial_index(n_trials=20, rows=30, between=10)
    inside = (index["trial"] >= 0).to_numpy()
    assert not (assign_splits(index, guard_s=0.5)[inside] == "guard").any()
    assert (assign_splits(index, guard_s=0.6)[inside] == "guard").any()


@pytest.mark.parametrize("n_trials", [3, 4, 7, 40, 150, 151])
def test_trials_are_shared_out_as_asked(n_trials):
    index = trial_index(n_trials, rows=4)
    labels = assign_splits(index, fractions=(0.7, 0.15, 0.15))
    found = split_fractions(labels)
    assert sum(found.values()) == pytest.approx(1)
    for part, asked in zip(PARTS, (0.7, 0.15, 0.15)):
        # Whole trials: within one of what was asked, and never none.
        assert found[part] * n_trials == pytest.approx(
            max(1, asked * n_trials), abs=1.0 if n_trials > 4 else 1.5
        )


@pytest.mark.parametrize("by", ["trial", "time"])
@pytest.mark.parametrize("seed", range(5))
def test_a_drift_over_the_session_reaches_every_split(by, seed):
    index = trial_index(n_trials=150, rows=40)
    labels = assign_splits(index, by=by, seed=seed, guard_s=0.0)
    position = np.linspace(0, 1, len(index))
    for part in PARTS:
        assert abs(position[labels == part].mean() - 0.5) < 0.06
        assert position[labels == part].min() < 0.11
        assert position[labels == part].max() > 0.89


def test_the_seed_chooses_the_order():
    index = pd.DataFrame({"time": bins(2000)})
    drawn = {tuple(assign_splits(index, by="time", seed=seed)) for seed in range(4)}
    assert len(drawn) == 4


def test_time_blocks_make_up_for_their_guards():
    index = pd.DataFrame({"time": bins(12000)})
    labels = assign_splits(index, by="time", guard_s=1.0)
    found = split_fractions(labels)
    kept = 1 - found["guard"]
    assert 0.05 < found["guard"] <= 0.2
    for part, asked in zip(PARTS, (0.7, 0.15, 0.15)):
        assert found[part] / kept == pytest.approx(asked, abs=0.02)


def test_fewer_cycles_where_guards_would_cost_too_much():
    index = pd.DataFrame({"time": bins(2400)})  # 120 s
    few = assign_splits(index, by="time", guard_s=3.0)
    many = assign_splits(index, by="time", guard_s=0.1)
    assert split_fractions(few)["guard"] <= 0.2
    blocks = [np.count_nonzero(labels[1:] != labels[:-1]) for labels in (few, many)]
    assert blocks[0] < blocks[1] / 3


@pytest.mark.parametrize(
    ("index", "settings", "message"),
    [
        (trial_index(2, 10), {}, r"session a has 2 trials for 3 parts \(train 0\.7"),
        (trial_index(1, 1).head(0), {}, r"no rows"),
        (pd.DataFrame({"time": bins(2)}), {"by": "time"}, r"has 2 rows for 3 parts"),
        (
            pd.DataFrame({"time": bins(100)}),
            {"by": "time", "guard_s": 2.0},
            r"100 bins of 0\.05 s.*guard of 2 s on both sides.*lower guard_s",
        ),
        (
            trial_index(3, 10),
            {"guard_s": 1.0},
            r"3 trials, 30 bins of 0\.05 s, leaves no bin in one of the parts",
        ),
    ],
)
def test_an_impossible_request_is_refused_with_its_numbers(index, settings, message):
    with pytest.raises(SelectionError, match=message):
        assign_splits(index, **settings)


def test_fewer_parts_can_be_asked_for():
    index = pd.DataFrame({"time": bins(2)})
    assert assign_splits(index, by="time", fractions=(1, 0, 0)).tolist() == ["train", "train"]
    labels = assign_splits(trial_index(10, 5), fractions=(0.8, 0, 0.2))
    assert split_fractions(labels) == {"train": 0.8, "validation": 0, "test": 0.2, "guard": 0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "bin"}, "by='bin'"),
        ({"fractions": (0.7, 0.2)}, "three shares"),
        ({"fractions": (0.7, 0.2, 0.2)}, "sum to 1"),
        ({"fractions": (1.2, -0.1, -0.1)}, "at least 0"),
        ({"guard_s": -1.0}, r"guard_s=-1\.0"),
        ({"guard_s": float("nan")}, "guard_s=nan"),
        ({"between": "drop"}, "between='drop'"),
        ({"seed": -1}, "seed=-1"),
        ({"bin_size_s": 0.0}, "bin_size_s"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        assign_splits(trial_index(10, 5), **settings)


def test_an_index_that_lacks_what_is_needed_is_refused():
    with pytest.raises(DataError, match="no column trial"):
        assign_splits(pd.DataFrame({"time": bins(10)}))
    with pytest.raises(DataError, match="no column time"):
        assign_splits(pd.DataFrame({"trial": [0, 1, 2]}), guard_s=1.0)
    with pytest.raises(DataError, match="without a time"):
        assign_splits(pd.DataFrame({"time": [0.0, np.nan, 1.0]}), by="time")
    with pytest.raises(DataError, match=r"several rows at time 1\.0"):
        assign_splits(pd.DataFrame({"time": [0.0, 1.0, 1.0]}), by="time")
    with pytest.raises(SelectionError, match="no labels"):
        split_fractions([])


def test_documents_without_times_are_split_whole():
    index = pd.DataFrame({"trial": np.repeat(np.arange(20), 7)})
    labels = assign_splits(index, fractions=(0.7, 0.15, 0.15))
    assert all(len(set(labels[index["trial"] == number])) == 1 for number in range(20))
    assert split_fractions(labels)["train"] == pytest.approx(0.7)


# ---- windows


@settings(max_examples=80, deadline=None)
@given(data=st.data(), seq_len=st.integers(1, 5), stride=st.integers(1, 4))
def test_windows_are_exactly_the_runs_that_cross_no_border(data, seq_len, stride):
    n = data.draw(st.integers(0, 30))
    draw = {
        name: data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
        for name in ("segment", "trial", "split")
    }
    index = pd.DataFrame(
        {
            "row": np.arange(n),
            "session": "a",
            "segment": np.cumsum(draw["segment"], dtype=np.int64),
            "trial": draw["trial"],
            "split": np.array(["train", "guard"])[np.array(draw["split"], dtype=int)],
        }
    )
    left_out = data.draw(st.sets(st.integers(0, n - 1))) if n else set()
    index = index.drop(index=sorted(left_out))

    found = windows(index, seq_len, stride=stride)

    key = {
        row: (segment, trial, split)
        for row, segment, trial, split in zip(
            index["row"], index["segment"], index["trial"], index["split"]
        )
    }
    expected = []
    run_start = None
    for row in range(n):
        if row not in key:
            continue
        if row - 1 not in key or key[row - 1] != key[row]:
            run_start = row
        assert run_start is not None
        window = [row + i for i in range(seq_len)]
        same = all(other in key and key[other] == key[row] for other in window)
        if same and (row - run_start) % stride == 0:
            expected.append(window)
    assert found.shape == (len(expected), seq_len)
    assert found.tolist() == expected
    train = windows(index, seq_len, stride=stride, split="train")
    assert train.tolist() == [window for window in expected if key[window[0]][2] == "train"]


def test_windows_of_a_store_never_cross_what_was_added_apart(tmp_path):
    with StoreWriter(tmp_path / "s", kind="counts", shard_rows=4) as writer:
        for start in (0.0, 1.5):
            writer.add(np.ones((3, 2)), session="a", time=start + 0.5 * np.arange(3), split="train")
    index = ExampleStore.open(tmp_path / "s").index
    assert windows(index, 2).tolist() == [[0, 1], [1, 2], [3, 4], [4, 5]]
    assert windows(index, 4).shape == (0, 4)


def test_window_settings_out_of_range_are_refused():
    index = pd.DataFrame({"row": range(4)})
    with pytest.raises(ConfigError, match="seq_len=0"):
        windows(index, 0)
    with pytest.raises(ConfigError, match="stride=0"):
        windows(index, 2, stride=0)
    with pytest.raises(ConfigError, match="split='valid'"):
        windows(index, 2, split="valid")
    with pytest.raises(DataError, match="no column split"):
        windows(index, 2, split="train")
    with pytest.raises(DataError, match="no column row"):
        windows(pd.DataFrame({"time": bins(3)}), 2)
