"""Latents written beside their recording: values, pointers, validity, and the original untouched."""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from saebook.data import UnitCriteria, prepare, read_recording, simulate_session
from saebook.errors import DataError, EnvironmentProblem, RecordingError
from saebook.evaluation import (
    StoredLatents,
    decoder_directions,
    read_latents,
    to_pynapple,
    to_xarray,
    write_latents,
)
from saebook.models import SAE, SAEConfig

ANY_UNIT = UnitCriteria(min_rate_hz=0.05, max_isi_violations=None, labels=None)
# Units without regions, with electrodes, and of an older schema as published.
REAL = ["linear_track.nwb", "kilosort_toy_15units.nwb", "A8604-211122.nwb"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def remarks(path: Path) -> set[tuple[Any, ...]]:
    """What nwbinspector says of a file: importance, check, object."""
    from nwbinspector import inspect_nwbfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(inspect_nwbfile(nwbfile_path=str(path)))
    return {(m.importance.name, m.check_function_name, m.object_name) for m in found if m}


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Path:
    return simulate_session(tmp_path_factory.mktemp("nwb") / "reach.nwb", n_units=24, n_trials=12)


@pytest.fixture(scope="module")
def store(session, tmp_path_factory) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prepare(
            session, tmp_path_factory.mktemp("store") / "s", criteria=ANY_UNIT, progress=False
        )


@pytest.fixture(scope="module")
def sae(store) -> SAE:
    sae = SAE(SAEConfig(d_in=store.d_in, d_sae=32, architecture="topk", k=4), seed=0)
    sae.fit_inputs(store.tensor(split="train").float())
    return sae.eval()


@pytest.fixture
def discovery() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "variable": ["hand velocity", None, "target"],
            "name": ["a", "b/c", "d: é"],
            "p": [0.01, np.nan, 1.0],
            "q": pd.array([0.5, None, 0.25], dtype="Float64"),
            "rank": np.array([1, 2, 3], np.int32),
            "kept": [True, False, True],
        },
        index=pd.Index([3, 4, 9], name="latent"),
    )


@pytest.fixture(scope="module")
def written(session, store, sae, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "reach-latents.nwb"
    return write_latents(sae, session, out, data=store)


def test_an_sae_round_trips(written, session, store, sae):
    stored = read_latents(written)
    with torch.no_grad():
        expected = sae.encode(store.tensor().float())
    assert torch.equal(torch.from_numpy(stored.activations), expected)
    np.testing.assert_allclose(stored.timestamps, store.index["time"], rtol=0, atol=1e-9)
    assert stored.decoder is not None and stored.units is not None
    np.testing.assert_array_equal(stored.decoder, decoder_directions(sae).numpy())
    assert stored.units.index.tolist() == store.features["unit"].tolist()
    assert SAEConfig(**stored.configuration["sae"]) == sae.config
    assert stored.provenance["recording"] == {"file": "reach.nwb", "sha256": sha256(session)}
    assert stored.provenance["store"]["sessions"]
    assert stored.bin_size_s == store.bin_size_s
    assert stored.discovery is None


def test_the_decoder_points_at_the_units_it_belongs_to(written, store):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pynwb import NWBHDF5IO

        with NWBHDF5IO(path=str(written), mode="r") as io:
            nwbfile: Any = io.read()
            table = nwbfile.processing["misc"]["sae_decoder"]
            assert table["unit"].table is nwbfile.units
            pointed = [int(table["unit"].get(row, df=True).index[0]) for row in range(len(table))]
            assert pointed == store.features["unit"].tolist()


def test_a_copy_leaves_the_original_and_all_it_held(session, store, sae, tmp_path):
    before = sha256(session)
    out = write_latents(sae, session, tmp_path / "b.nwb", data=store)
    assert sha256(session) == before
    one, other = read_recording(out), read_recording(session)
    pd.testing.assert_frame_equal(one.units, other.units)
    assert one.trials is not None and other.trials is not None
    pd.testing.assert_frame_equal(one.trials, other.trials)
    for a, b in zip(one.spike_times, other.spike_times, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [p.name for p in tmp_path.iterdir()] == ["b.nwb"]


@pytest.mark.filterwarnings("ignore")
def test_a_simulated_copy_has_no_remark_and_is_valid(written, session, discovery, tmp_path):
    from pynwb import validate

    assert remarks(session) == set()
    assert remarks(written) == set()
    assert validate(path=str(written)) == []
    stored = read_latents(written)
    again = write_latents(
        stored.activations,
        written,
        tmp_path / "c.nwb",
        timestamps=stored.timestamps,
        discovery=discovery.fillna({"p": 0.5, "q": 0.5}),
        name="second",
    )
    assert remarks(again) == set()
    assert validate(path=str(again)) == []


@pytest.mark.filterwarnings("ignore::saebook.errors.RecordingWarning")
@pytest.mark.parametrize("name", REAL)
def test_real_recordings_take_latents_without_new_remarks(shared_data, tmp_path, name, discovery):
    path = shared_data / name
    recording = read_recording(path)
    before, rng = sha256(path), np.random.default_rng(0)
    n = 300
    times = recording.interval.start + np.arange(n) * 0.05
    latents = np.maximum(rng.normal(-1, 1, (n, 12)), 0).astype(np.float32)
    weights = rng.normal(size=(12, recording.n_units)).astype(np.float32)
    out = write_latents(
        latents,
        path,
        tmp_path / name,
        timestamps=times,
        bin_size_s=0.05,
        decoder=weights,
        unit_ids=recording.units.index.tolist(),
        discovery=discovery,
    )
    assert sha256(path) == before
    new = remarks(out) - remarks(path)
    assert not {remark for remark in new if remark[0] in ("CRITICAL", "ERROR")}
    assert {check for _, check, _ in new} <= {"check_col_not_nan"}
    stored = read_latents(out)
    np.testing.assert_array_equal(stored.activations, latents)
    np.testing.assert_allclose(stored.timestamps, times, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(stored.decoder, weights)
    assert stored.units is not None
    assert stored.units.index.tolist() == recording.units.index.tolist()
    if "location" in recording.units:
        assert stored.units["location"].tolist() == recording.units["location"].tolist()


def test_a_discovery_table_round_trips(session, discovery, tmp_path):
    out = write_latents(
        np.eye(4), session, tmp_path / "d.nwb", timestamps=np.arange(4.0), discovery=discovery
    )
    expected = discovery.assign(
        variable=["hand velocity", "", "target"], q=np.array([0.5, np.nan, 0.25])
    )
    found = read_latents(out).discovery
    assert found is not None
    pd.testing.assert_frame_equal(found, expected)


def test_irregular_times_are_kept_exactly(session, tmp_path):
    times = np.array([0.0, 0.1, 0.3, 7.123456789012345])
    out = write_latents(np.eye(4), session, tmp_path / "e.nwb", timestamps=times)
    np.testing.assert_array_equal(read_latents(out).timestamps, times)
    with h5py.File(out) as file:
        assert "timestamps" in file["processing/misc/sae_latents"]  # type: ignore[operator]


def test_regular_times_become_a_round_rate(session, tmp_path):
    times = 4397.0 + np.arange(5000) * 0.05
    out = write_latents(np.ones((5000, 3)), session, tmp_path / "e.nwb", timestamps=times)
    with h5py.File(out) as file:
        start: Any = file["processing/misc/sae_latents/starting_time"]
        assert start.attrs["rate"] == 20.0
    np.testing.assert_allclose(read_latents(out).timestamps, times, rtol=0, atol=1e-9)


def test_some_latents_are_read_in_the_order_asked_for(written):
    whole, some = read_latents(written), read_latents(written, latents=[7, 0, 31])
    np.testing.assert_array_equal(some.activations, whole.activations[:, [7, 0, 31]])
    assert whole.decoder is not None and some.decoder is not None
    np.testing.assert_array_equal(some.decoder, whole.decoder[[7, 0, 31]])
    with pytest.raises(DataError, match="0 to 31"):
        read_latents(written, latents=[32])


def test_windows_are_written_at_their_last_bin(session, store, tmp_path):
    config = SAEConfig(d_in=store.d_in, d_sae=16, architecture="topk", k=2, seq_len=3, target="all")
    sae = SAE(config, seed=0)
    from saebook.data import windows

    rows = windows(store.index, 3)
    x = store.tensor(rows=rows.ravel()).reshape(*rows.shape, -1).float()
    sae.fit_inputs(x)
    sae.eval()
    stored = read_latents(write_latents(sae, session, tmp_path / "w.nwb", data=store))
    np.testing.assert_allclose(
        stored.timestamps, store.index["time"].to_numpy()[rows[:, -1]], rtol=0, atol=1e-9
    )
    assert stored.decoder is not None
    assert stored.decoder.shape == (16, 3, store.d_in)
    np.testing.assert_array_equal(stored.decoder.reshape(16, -1), decoder_directions(sae).numpy())


def test_sparse_latents_take_little_room(session, tmp_path):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    n, d_sae = 20_000, 256
    latents = scipy_sparse.random(n, d_sae, density=0.02, rng=0, format="csr", dtype=np.float32)
    out = write_latents(latents, session, tmp_path / "s.nwb", timestamps=np.arange(n) * 0.05)
    added = out.stat().st_size - session.stat().st_size
    assert added < 0.08 * n * d_sae * 4
    np.testing.assert_array_equal(read_latents(out).activations, latents.toarray())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timestamps": None}, "give timestamps="),
        ({"timestamps": [0.0, 0.1]}, r"shape \(2,\) for 3 rows"),
        ({"timestamps": [0.0, 0.2, 0.1]}, "row 2 is 0.1 s"),
        ({"timestamps": [0.0, np.nan, 1.0]}, "row 1 is nan"),
        ({"latents": np.array([[0.0, np.nan]] * 3)}, "row 0 are not all finite"),
        ({"latents": np.zeros(3)}, r"give numbers \[n, d_sae\]"),
        ({"decoder": np.zeros((2, 5))}, "needs unit_ids"),
        ({"decoder": np.zeros((2, 5)), "unit_ids": [0, 1]}, "2 latents and 2 units"),
        ({"name": "a/b"}, "can't name an object"),
        ({"data": np.zeros((3, 2))}, "data goes with an SAE"),
        ({"configuration": {"a": object()}}, "configuration can't be written as JSON"),
        ({"discovery": pd.DataFrame({"a": [[1], [2]]})}, "holds list"),
        ({"discovery": pd.DataFrame({"a": []})}, "leave it out"),
        ({"discovery": pd.DataFrame([[1, 2]], columns=["a", "a"])}, "repeat"),
        ({"discovery": pd.DataFrame({"a": pd.array([1, None], dtype="Int64")})}, "make it float"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(session, tmp_path, options, said):
    given = {"latents": np.ones((3, 2)), "timestamps": [0.0, 0.1, 0.2], **options}
    with pytest.raises(DataError, match=said):
        write_latents(given.pop("latents"), session, tmp_path / "x.nwb", **given)
    assert list(tmp_path.iterdir()) == []


def test_wrong_files_are_refused(session, shared_data, tmp_path, written):
    latents: dict[str, Any] = {"timestamps": [0.0, 0.1]}
    cases = [
        (session, session, "only read"),
        (tmp_path / "no.nwb", tmp_path / "x.nwb", "no such file"),
        (written, tmp_path / "x.nwb", "already holds sae_configuration"),
        (shared_data / "bad_truncated.nwb", tmp_path / "x.nwb", "can't add to it"),
        (shared_data / "bad_plain_hdf5.nwb", tmp_path / "x.nwb", "can't add to it"),
    ]
    for source, out, said in cases:
        with pytest.raises(RecordingError, match=said):
            write_latents(np.ones((2, 2)), source, out, **latents)
    with pytest.raises(RecordingError, match=r"lacks units \[99\]"):
        write_latents(
            np.ones((2, 2)),
            session,
            tmp_path / "x.nwb",
            decoder=np.ones((2, 1)),
            unit_ids=[99],
            **latents,
        )
    assert list(tmp_path.iterdir()) == []
    out = write_latents(np.ones((2, 2)), session, tmp_path / "x.nwb", **latents)
    with pytest.raises(RecordingError, match="overwrite=True"):
        write_latents(np.ones((2, 2)), session, out, **latents)
    write_latents(np.zeros((2, 2)), session, out, overwrite=True, **latents)
    assert not read_latents(out).activations.any()
    with pytest.raises(RecordingError, match=r"holds latents named \(none\)"):
        read_latents(session)


def test_a_store_of_another_recording_is_refused(sae, store, session, tmp_path):
    other = tmp_path / "other.nwb"
    other.write_bytes(session.read_bytes())
    with pytest.raises(DataError, match="the store holds sessions reach, not other"):
        write_latents(sae, other, tmp_path / "x.nwb", data=store)


# pynapple and xarray


@pytest.mark.filterwarnings("ignore")
def test_pynapple_reads_the_file(written):
    nap = pytest.importorskip("pynapple")
    file = nap.load_file(str(written))
    frame, stored = file["sae_latents"], read_latents(written)
    assert isinstance(frame, nap.TsdFrame)
    np.testing.assert_array_equal(frame.values, stored.activations)
    np.testing.assert_allclose(frame.times(), stored.timestamps, rtol=0, atol=1e-9)
    assert len(file["units"]) == 24


def test_latents_become_a_frame_with_what_is_known_of_each(written):
    nap = pytest.importorskip("pynapple")
    stored = read_latents(written)
    assert stored.decoder is not None and stored.units is not None
    extra = pd.DataFrame({"names": [f"n{i}" for i in range(32)]})
    frame = to_pynapple(stored, metadata=extra)
    assert isinstance(frame, nap.TsdFrame)
    np.testing.assert_array_equal(frame.values, stored.activations)
    assert list(frame.columns) == list(range(32))
    top = stored.units.index.to_numpy()[np.abs(stored.decoder).argmax(axis=1)]
    assert frame.metadata["top_unit"].tolist() == top.tolist()
    assert set(frame.metadata["top_location"]) == {"primary motor cortex"}
    assert frame.metadata["names"].tolist() == extra["names"].tolist()


def test_counts_become_a_frame_of_units_and_windows_a_tensor(store):
    nap = pytest.importorskip("pynapple")
    counts, times = store.array()[:50], store.index["time"].to_numpy()[:50]
    units = store.features.set_index("unit")[["location"]]
    frame = to_pynapple(counts, times, metadata=units)
    assert list(frame.columns) == units.index.tolist()
    assert frame.metadata["location"].tolist() == units["location"].tolist()
    tensor = to_pynapple(torch.zeros(50, 3, 4), times)
    assert isinstance(tensor, nap.TsdTensor) and tensor.shape == (50, 3, 4)
    with pytest.raises(DataError, match="one time per row"):
        to_pynapple(counts, times[:10])
    with pytest.raises(DataError, match="1 rows of metadata"):
        to_pynapple(counts, times, metadata=units.iloc[:1])


def test_xarray_knows_units_regions_and_behaviour(written, session, store):
    pytest.importorskip("xarray")
    stored, recording = read_latents(written), read_recording(session)
    found = to_xarray(stored, recording)
    np.testing.assert_array_equal(found.activations.values, stored.activations)
    assert found.decoder.sizes == {"latent": 32, "unit": store.d_in}
    unit = store.features["unit"].iloc[2]
    np.testing.assert_array_equal(
        found.decoder.sel(unit=unit).values, np.asarray(stored.decoder)[:, 2]
    )
    assert set(found["location"].values) == {"primary motor cortex"}
    velocity = [str(name) for name in found.coords if "velocity" in str(name)]
    assert len(velocity) == 2
    assert recording.trials is not None
    trial = recording.trials.iloc[4]
    centers = found.time.values + store.bin_size_s / 2
    inside = (centers >= trial.start_time) & (centers < trial.stop_time)
    np.testing.assert_array_equal(found["trial"].values == 4, inside)


def test_behaviour_outside_its_clock_is_unknown():
    pytest.importorskip("xarray")
    from saebook.data import Recording, Series

    pupil = Series("pupil", np.arange(10.0)[:, None], 2 + np.arange(10) * 0.1, "mm", ("pupil",))
    recording = Recording.from_spike_times([[0.5]], interval=(0, 5), behavior={"pupil": pupil})
    stored = StoredLatents(np.zeros((50, 1), np.float32), np.arange(50) * 0.1, 0.1)
    values = to_xarray(stored, recording)["pupil"].values
    assert np.isnan(values[:19]).all() and np.isnan(values[30:]).all()
    assert np.isfinite(values[20:29]).all()


@pytest.mark.parametrize(("package", "export"), [("pynapple", to_pynapple), ("xarray", to_xarray)])
def test_a_missing_package_names_its_extra(monkeypatch, package, export):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvironmentProblem, match=r"saebook\[neuro\]"):
        export(StoredLatents(np.zeros((2, 1), np.float32), np.arange(2.0)))
