"""Public recordings: the list, downloads against a misbehaving server, units streamed alone."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from saebook.__main__ import main
from saebook.data import fetch, read_recording, simulate_session
from saebook.data.archive import Requester, download, find_asset, find_recording, read_registry
from saebook.data.archive.requesting import LONGEST_PAUSE_S
from saebook.errors import ConfigError, EnvironmentProblem, RecordingError, RecordingWarning

SERVER = Path(__file__).resolve().parents[1] / "fixtures" / "dandi_server.py"
PATH = "sub-A/sub-A_ses-1_ecephys.nwb"
OTHER = "sub-A/sub-A_ses-2_ecephys.nwb"
NAME = f"dandi:000140/{PATH}"
CONTENT = np.random.default_rng(0).bytes(3_000_000)


def load_server() -> Any:
    spec: Any = importlib.util.spec_from_file_location("dandi_server", SERVER)
    module = importlib.util.module_from_spec(spec)
    sys.modules["dandi_server"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A server of two files, with this process's archive address and data folder set to it."""
    with load_server().serving({PATH: CONTENT, OTHER: CONTENT[:1000]}) as archive:
        monkeypatch.setenv("SAEBOOK_DANDI_API", f"{archive.address}/api")
        monkeypatch.setenv("SAEBOOK_DATA", str(tmp_path / "data"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1,localhost")
        yield archive


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def requester(pauses) -> Requester:
    return Requester(tries=3, timeout_s=5.0, sleep=pauses.append)


def bring(requester: Requester, name: str = NAME, **options: Any) -> Path:
    return fetch(name, progress=False, requester=requester, **options)


def left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


# The list


def test_every_entry_of_the_registry_is_complete():
    registry = read_registry()
    asked = ["mc_maze_small", "mc_maze_medium", "mc_maze_large", "mc_rtt", "area2_bump"]
    assert [registry[name].id for name in asked] == [
        "000140",
        "000139",
        "000138",
        "000129",
        "000127",
    ]
    assert {"allen_visual_coding", "ibl_brain_wide_map"} <= set(registry)
    for entry in registry.values():
        assert entry.path.endswith(".nwb") and entry.licence and entry.citation and entry.title
        # Nothing may claim to be checked that was written without the archive.
        assert entry.checked is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {id: 140, path: a.nwb}", "a: id 140 must be text"),
        ("a: {id: '000140'}", "missing fields path"),
        ("a: {id: '000140', path: a.nwb, sha: 0}", "unknown fields sha"),
        ("a: {id: '000140', path: a.nwb, sha256: abc}", "64 hexadecimal digits"),
        ("a: {id: '000140', path: a.nwb, size: 0}", "size 0 must be"),
        ("a: {archive: crcns, id: '1', path: a}", "archive 'crcns' isn't known"),
        ("a: 3", "give it fields"),
        ("- a", "holds no entries"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_wrong_registry_names_the_entry_and_the_field(tmp_path, text, said):
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_registry(path)


@pytest.mark.parametrize("name", ["dandi:000140/../../x.nwb", "dandi:000140//x", "dandi:14/x"])
def test_a_reference_cannot_leave_its_folder(name):
    with pytest.raises(RecordingError, match="is no reference"):
        find_recording(name)


def test_a_file_named_by_reference_gets_the_checksum_of_the_list():
    entry = read_registry()["mc_rtt"]
    assert find_recording(f"dandi:000129/{entry.path}") == entry
    assert find_recording(f"dandi:000129@0.1.1/{entry.path}").sha256 is None


# Downloads


def test_a_download_is_the_file_with_a_note_of_its_source(served, requester, tmp_path):
    path = bring(requester)
    assert path == tmp_path / "data" / "dandi" / "000140" / "latest" / PATH
    assert path.read_bytes() == CONTENT
    note = json.loads(path.with_name(f"{path.name}.source.json").read_text())
    assert note["sha256"] == sha256(CONTENT).hexdigest()
    assert (note["version"], note["size"]) == ("0.220113.0408", len(CONTENT))
    assert left_behind(path.parent) == [path.name, f"{path.name}.source.json"]


def test_a_second_fetch_asks_nobody(served, requester):
    path = bring(requester)
    asked = len(served.requests)
    assert bring(requester) == path
    assert len(served.requests) == asked


def test_a_broken_off_download_goes_on_and_equals_the_whole(served, requester):
    served.breaks = [700_001, 900_000, 1]
    assert bring(requester).read_bytes() == CONTENT
    asked = [spans for path, spans in served.requests if path.startswith("/blobs/")]
    assert asked == ["", "bytes=700001-", "bytes=1600001-", "bytes=1600002-"]
    assert served.sent == len(CONTENT)


def test_what_one_process_left_is_taken_up_by_the_next(served, requester):
    served.breaks = [1_000_000, 0, 0, 0, 0]
    with pytest.raises(EnvironmentProblem, match="goes on from there"):
        bring(requester)
    (folder,) = (p.parent for p in Path(os.environ["SAEBOOK_DATA"]).rglob("*.part"))
    assert not any(p.suffix == ".nwb" for p in folder.iterdir())
    served.breaks, served.sent = [], 0
    assert bring(Requester(tries=3)).read_bytes() == CONTENT
    assert served.sent == len(CONTENT) - 1_000_000


def test_a_part_of_another_content_is_not_gone_on_with(served, requester):
    served.breaks = [1_000_000, 0, 0, 0, 0]
    with pytest.raises(EnvironmentProblem):
        bring(requester)
    served.breaks = []
    served.files[PATH] = CONTENT[::-1]
    assert bring(requester).read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_sends_all_again(served, requester):
    served.serves_ranges, served.breaks = False, [500_000, 2_000_000]
    assert bring(requester).read_bytes() == CONTENT
    assert served.sent == 500_000 + 2_000_000 + len(CONTENT)


def test_without_ranges_or_progress_it_gives_up(served, requester):
    served.serves_ranges, served.breaks = False, [500_000] * 50
    with pytest.raises(EnvironmentProblem, match="3 times without any progress"):
        bring(requester)
    assert len(served.breaks) == 46


def test_a_wrong_checksum_leaves_nothing(served, requester, tmp_path):
    served.sha256[PATH] = "0" * 64
    with pytest.raises(RecordingError, match="should be 0000"):
        bring(requester)
    assert not [n for n in left_behind(tmp_path) if n.endswith((".nwb", ".part"))]
    served.sha256.clear()
    assert bring(requester).read_bytes() == CONTENT


def test_damage_within_a_kept_part_is_found(served, requester, tmp_path):
    served.breaks = [1_000_000, 0, 0, 0, 0]
    with pytest.raises(EnvironmentProblem):
        bring(requester)
    (part,) = tmp_path.rglob("*.part")
    part.write_bytes(b"x" + part.read_bytes()[1:])
    served.breaks = []
    with pytest.raises(RecordingError, match="its sha256 is"):
        bring(requester)
    assert bring(requester).read_bytes() == CONTENT


@pytest.mark.filterwarnings("ignore")
def test_without_sha256_the_archives_own_checksum_is_compared(served, requester, tmp_path):
    digests = pytest.importorskip("dandischema.digests.dandietag")
    whole = tmp_path / "whole"
    whole.write_bytes(CONTENT)
    served.sha256[PATH], served.etag[PATH] = None, "0" * 32 + "-1"
    with pytest.raises(RecordingError, match="its dandi-etag is"):
        bring(requester)
    served.etag[PATH] = digests.DandiETag.from_file(whole).as_str()
    assert bring(requester).read_bytes() == CONTENT


def test_a_busy_server_is_given_the_time_it_asks_for(served, requester, pauses):
    when = datetime.now(UTC) + timedelta(seconds=40)
    served.api_refusals = [(429, {"Retry-After": "7"}), (503, {})]
    served.refusals = [(503, {"Retry-After": format_datetime(when, usegmt=True)})]
    assert bring(requester).read_bytes() == CONTENT
    assert pauses[0] == 7.0
    assert 2.0 <= pauses[1] <= 2.5
    assert 35.0 < pauses[2] <= 40.0


def test_a_server_that_stays_busy_is_named_with_its_answer(served, requester, pauses):
    served.api_refusals = [(503, {})] * 10
    with pytest.raises(EnvironmentProblem, match=r"503 Service Unavailable, 3 times"):
        bring(requester)
    assert len(pauses) == 2


def test_a_wait_of_hours_is_left_to_the_user(served, requester, pauses):
    served.api_refusals = [(429, {"Retry-After": str(2 * LONGEST_PAUSE_S)})]
    with pytest.raises(EnvironmentProblem, match="come back in 600 s"):
        bring(requester)
    assert pauses == []


def test_a_file_that_changes_between_two_connections_is_refused(served, requester, tmp_path):
    served.breaks, served.later = [500_000], CONTENT + b"longer"
    with pytest.raises(RecordingError, match="3,000,006 bytes where 3,000,000 were expected"):
        bring(requester)
    assert not list(tmp_path.rglob("*.nwb"))


def test_with_nothing_known_beforehand_a_changed_file_is_fetched_anew(served, requester, tmp_path):
    served.breaks, served.later = [500_000], CONTENT[::-1]
    out = tmp_path / "a.nwb"
    url = f"{served.address}/blobs/0"
    assert download(url, out, requester=requester, progress=False) == (
        sha256(CONTENT[::-1]).hexdigest()
    )
    assert out.read_bytes() == CONTENT[::-1]


def test_the_registry_and_the_archive_have_to_agree(served, requester, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "registry.yaml").write_text(
        f"a: {{id: '000140', version: 0.220113.0408, path: {PATH}, sha256: {'a' * 64}}}"
    )
    monkeypatch.setenv("SAEBOOK_ROOT", str(tmp_path))
    with pytest.raises(RecordingError, match=r"the archive states sha256 .* and data/registry"):
        bring(requester, "a")


def test_a_missing_path_is_answered_with_those_there_are(served, requester):
    with pytest.raises(RecordingError, match=f"it has {PATH}, {OTHER}. Name one"):
        bring(requester, "dandi:000140/sub-A/none.nwb")
    with pytest.raises(RecordingError, match=r"holds several files .*it has"):
        bring(requester, "dandi:000140")
    with pytest.raises(RecordingError, match=r"no such file or data set \(404"):
        bring(requester, "dandi:000141/a.nwb")


def test_an_only_file_needs_no_path_and_pages_are_followed(served, requester):
    served.page_size = 1
    assert find_asset(find_recording(f"dandi:000140/{OTHER}"), requester).size == 1000
    with pytest.raises(RecordingError, match=f"{PATH}, {OTHER}"):
        bring(requester, "dandi:000140")
    del served.files[PATH]
    assert bring(requester, "dandi:000140").read_bytes() == CONTENT[:1000]


def test_somebodys_own_file_is_not_overwritten(served, requester, tmp_path):
    own = tmp_path / Path(PATH).name
    own.write_bytes(b"mine")
    with pytest.raises(RecordingError, match="exists and isn't the archive's file"):
        bring(requester, out=tmp_path)
    assert own.read_bytes() == b"mine"
    own.write_bytes(CONTENT)
    assert bring(requester, out=tmp_path) == own
    assert served.sent == 0


def test_two_processes_do_not_write_one_part(served, requester, tmp_path):
    import fcntl

    out = tmp_path / "a.nwb"
    with (tmp_path / "a.nwb.part").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentProblem, match=r"a\.nwb is being downloaded by another"):
            download(f"{served.address}/blobs/0", out, requester=requester, progress=False)


def test_a_full_disk_is_seen_before_anything_comes(served, requester, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10))
    with pytest.raises(EnvironmentProblem, match="Make room"):
        bring(requester)
    assert served.sent == 0


# The command line


def test_without_a_network_one_line_says_so(monkeypatch, capsys, tmp_path):
    import socket

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
        monkeypatch.setenv("SAEBOOK_DANDI_API", address)
        monkeypatch.setenv("SAEBOOK_DATA", str(tmp_path))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert main(["fetch", "mc_maze_small"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "can't be reached (" in lines[0] and "Check the network" in lines[0]
    assert left_behind(tmp_path) == []


def test_the_command_fetches_and_lists(served, capsys):
    assert main(["fetch", NAME]) == 0
    assert "(3.0 MB)" in capsys.readouterr().out
    assert main(["fetch", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "mc_rtt" in listed and "CC-BY-4.0" in listed
    assert main(["fetch"]) == 2
    assert main(["fetch", "--behavior", NAME]) == 2
    assert main(["fetch", "mc_mase"]) == 2


# Units alone


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    """A simulated session."""
    return simulate_session(
        tmp_path_factory.mktemp("session") / "clean.nwb", n_units=20, n_trials=10
    )


@pytest.fixture(scope="module")
def session(clean) -> Path:
    """The same session under twenty megabytes of voltage, and five of waveforms."""
    path = clean.with_name("session.nwb")
    shutil.copy(clean, path)
    voltage = np.random.default_rng(0).integers(-999, 999, (400_000, 25), dtype=np.int16)
    with h5py.File(path, "a") as file:
        group = file.create_group("acquisition/ElectricalSeries")
        group.attrs["neurodata_type"] = "ElectricalSeries"
        group["data"], group["timestamps"] = voltage, np.arange(400_000) / 3e4
        group["electrodes"] = np.arange(25)
        waveforms = np.random.default_rng(1).normal(size=(20, 82, 400))
        file["units/waveform_mean"] = waveforms
        columns: Any = file["units"].attrs["colnames"]
        file["units"].attrs["colnames"] = [*columns, "waveform_mean"]
    return path


def same(a: Any, b: Any) -> None:
    """Units, trains, trials and intervals of two recordings are equal."""
    pd.testing.assert_frame_equal(a.units, b.units)
    assert len(a.spike_times) == len(b.spike_times)
    for one, other in zip(a.spike_times, b.spike_times, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (a.trials is None) == (b.trials is None)
    if a.trials is not None and b.trials is not None:
        pd.testing.assert_frame_equal(a.trials, b.trials)
    assert a.intervals.keys() == b.intervals.keys()
    assert a.description == b.description


@pytest.mark.filterwarnings("ignore::saebook.errors.RecordingWarning")
def test_streamed_units_equal_the_download_for_a_share_of_its_bytes(served, requester, session):
    pytest.importorskip("remfile")
    served.files[PATH] = session.read_bytes()
    units = bring(requester, stream=True)
    assert served.sent < len(served.files[PATH]) / 10
    assert units.stat().st_size < len(served.files[PATH]) / 10
    note = json.loads(units.with_name(f"{units.name}.source.json").read_text())
    assert "acquisition/ElectricalSeries" in note["left_out"]
    assert "units/waveform_mean" in note["left_out"]
    whole = bring(requester)
    assert whole != units
    streamed, downloaded = read_recording(units), read_recording(whole)
    same(streamed, downloaded)
    assert streamed.session == downloaded.session
    assert streamed.interval == downloaded.interval
    assert streamed.behavior == {} and downloaded.behavior


@pytest.mark.filterwarnings("ignore")
def test_a_streamed_file_is_nwb_and_its_pointers_hold(served, requester, session, clean):
    pytest.importorskip("remfile")
    from pynwb import NWBHDF5IO, validate

    served.files[PATH] = session.read_bytes()
    path = bring(requester, stream=True, behavior=True)
    assert validate(path=str(path)) == []
    with (
        NWBHDF5IO(path=str(path), mode="r") as io,
        NWBHDF5IO(path=str(clean), mode="r") as original,
    ):
        nwbfile: Any = io.read()
        whole: Any = original.read()
        a, b = nwbfile.units.to_dataframe(), whole.units.to_dataframe()
        assert list(a.columns) == list(b.columns)
        assert [e.location.tolist() for e in a["electrodes"]] == [
            e.location.tolist() for e in b["electrodes"]
        ]
        assert set(nwbfile.processing["behavior"].data_interfaces)
    recording, complete = read_recording(path), read_recording(session)
    assert recording.behavior.keys() == complete.behavior.keys()
    for name, series in recording.behavior.items():
        np.testing.assert_array_equal(series.data, complete.behavior[name].data)


@pytest.mark.filterwarnings("ignore::saebook.errors.RecordingWarning")
@pytest.mark.parametrize(
    "name",
    [
        "linear_track.nwb",
        "kilosort_toy_15units.nwb",
        "A8604-211122.nwb",
        "ibl_120s_289clusters.nwb",
    ],
)
def test_real_recordings_stream_the_same(served, requester, shared_data, name):
    pytest.importorskip("remfile")
    served.files = {name: (shared_data / name).read_bytes()}
    path = bring(requester, f"dandi:000140/{name}", stream=True)
    same(read_recording(path), read_recording(shared_data / name))


def test_a_span_without_its_behaviour_is_said(served, requester, shared_data):
    pytest.importorskip("remfile")
    name = "dandi:000140/linear_track.nwb"
    served.files = {"linear_track.nwb": (shared_data / "linear_track.nwb").read_bytes()}
    bring(requester, name, stream=True)
    with pytest.warns(RecordingWarning, match="behaviour was left in the archive"):
        read_recording(name, stream=True)


def test_a_recording_is_read_by_reference_and_by_name(served, monkeypatch, session, tmp_path):
    served.files[PATH] = session.read_bytes()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "registry.yaml").write_text(
        f"tiny: {{id: '000140', version: 0.220113.0408, path: {PATH}}}"
    )
    monkeypatch.setenv("SAEBOOK_ROOT", str(tmp_path))
    same(read_recording("tiny"), read_recording(session))
    same(read_recording(f"dandi:000140@0.220113.0408/{PATH}"), read_recording(session))
    # A file here goes before a name in the list.
    monkeypatch.chdir(tmp_path)
    Path("tiny").write_bytes(b"not HDF5")
    with pytest.raises(RecordingError, match="not an HDF5 file"):
        read_recording("tiny")


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"<html>" * 1000, RecordingError, "not an HDF5 file"),
        (None, RecordingError, "no units table"),
    ],
)
def test_what_holds_no_units_is_not_streamed(served, requester, tmp_path, content, error, said):
    pytest.importorskip("remfile")
    if content is None:
        with h5py.File(tmp_path / "empty.nwb", "w") as file:
            file.attrs["nwb_version"] = "2.7.0"
        content = (tmp_path / "empty.nwb").read_bytes()
    served.files[PATH] = content
    with pytest.raises(error, match=said):
        bring(requester, stream=True)
    assert not [n for n in left_behind(tmp_path / "data") if "ecephys" in n]


def test_nothing_is_streamed_from_a_server_without_ranges(served, requester):
    pytest.importorskip("remfile")
    served.serves_ranges = False
    with pytest.raises(EnvironmentProblem, match="doesn't serve parts of files"):
        bring(requester, stream=True)


@pytest.mark.parametrize(("package", "options"), [("remfile", {"stream": True})])
def test_a_missing_extra_is_named(served, requester, monkeypatch, package, options):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvironmentProblem, match=r"saebook\[archive\]"):
        bring(requester, **options)
