"""Phy and Kilosort folders."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from saebook.data.spikes import Interval, read_phy
from saebook.errors import RecordingError, RecordingWarning

SAMPLES = np.array([300, 450, 600, 900, 1200], dtype=np.uint64)
CLUSTERS = np.array([7, 2, 7, 11, 2], dtype=np.int32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mouse_probe0"
    folder.mkdir()
    np.save(folder / "spike_times.npy", SAMPLES[:, None])
    np.save(folder / "spike_clusters.npy", CLUSTERS)
    (folder / "params.py").write_text("dat_path = r'rec.dat'\nsample_rate = 30000.\nhp = False\n")
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\tgood\n7\tnoise\n")
    (folder / "cluster_KSLabel.tsv").write_text(
        "cluster_id\tKSLabel\n2\tgood\n7\tmua\n11\tgood\n99\tmua\n"
    )
    (folder / "cluster_info.tsv").write_text(
        "id\tgroup\tdepth\tKSLabel\n2\tstale\t20.5\tgood\n7\tnoise\t40.0\tmua\n11\t\t60.0\tgood\n"
    )
    return folder


def test_units_times_and_labels(folder: Path) -> None:
    recording = read_phy(folder)
    assert recording.session == "mouse_probe0"
    assert recording.units.index.tolist() == [2, 7, 11]
    assert [t.tolist() for t in recording.spike_times] == [[0.015, 0.04], [0.01, 0.02], [0.03]]
    # The file that Phy writes for one column wins over its digest.
    assert recording.units["group"].tolist() == ["good", "noise", ""]
    assert recording.units["KSLabel"].tolist() == ["good", "mua", "good"]
    assert recording.units["depth"].tolist() == [20.5, 40.0, 60.0]
    assert recording.interval == Interval(0.01, 0.04)


def test_given_rate_and_labels(folder: Path) -> None:
    recording = read_phy(folder, sampling_rate_hz=15_000, labels={2: "good", 11: "mua"})
    assert recording.spike_times[0].tolist() == [0.03, 0.08]
    assert recording.units["label"].tolist() == ["good", "", "mua"]
    assert any("params.py says 30000" in note for note in recording.notes)


def test_templates_stand_in_before_curation(folder: Path) -> None:
    (folder / "spike_clusters.npy").rename(folder / "spike_templates.npy")
    assert read_phy(folder).units.index.tolist() == [2, 7, 11]


def test_unsorted_file_faults_its_units(folder: Path) -> None:
    np.save(folder / "spike_times.npy", SAMPLES[[0, 4, 2, 3, 1]])
    with pytest.warns(RecordingWarning, match="unit 2: unsorted"):
        recording = read_phy(folder)
    assert recording.faults.index.tolist() == [2]
    with pytest.raises(RecordingError, match="unit 2: unsorted"):
        read_phy(folder, strict=True)


def test_params_are_never_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    (folder / "params.py").write_text(code + "sample_rate = 20000\n")
    assert read_phy(folder).spike_times[1].tolist() == [0.015, 0.03]
    (folder / "params.py").write_text(code + "sample_rate = float(open('x').read())\n")
    with pytest.raises(RecordingError, match=r"params\.py: sample_rate is not a plain number"):
        read_phy(folder)
    assert not mark.exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_never_loaded(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (folder / "spike_clusters.npy").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(RecordingError, match=r"spike_clusters\.npy: not a plain array"):
        read_phy(folder)
    np.save(folder / "spike_clusters.npy", np.array([Bomb(mark)] * 5), allow_pickle=True)
    with pytest.raises(RecordingError, match="never loaded"):
        read_phy(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda f: (f / "spike_times.npy").unlink(),
            r"spike_times\.npy is missing .*holds cluster",
        ),
        (lambda f: (f / "spike_clusters.npy").unlink(), r"spike_clusters\.npy is missing"),
        (lambda f: (f / "params.py").unlink(), r"no params\.py.*sampling_rate_hz"),
        (lambda f: (f / "params.py").write_text("x = 1\n"), "no sample_rate"),
        (lambda f: (f / "params.py").write_text("sample_rate = \n"), "not readable as Python"),
        (lambda f: (f / "params.py").write_text("sample_rate = -1\n"), "a sampling rate of -1"),
        (lambda f: (f / "params.py").write_text("sample_rate = 'x'\n"), "a sampling rate of 'x'"),
        (lambda f: (f / "spike_times.npy").write_bytes(b""), "not a plain array"),
        (lambda f: np.save(f / "spike_clusters.npy", CLUSTERS[:3]), "5 spikes and .* 3"),
        (lambda f: np.save(f / "spike_times.npy", SAMPLES / 3e4), "holds fractions"),
        (lambda f: np.save(f / "spike_times.npy", np.zeros((5, 2))), r"shape \(5, 2\)"),
        (lambda f: [np.save(f / n, []) for n in ("spike_times", "spike_clusters")], "no units"),
    ],
)
def test_folders_that_can_not_be_read_say_why(folder: Path, change, words: str) -> None:
    change(folder)
    with pytest.raises(RecordingError, match=words) as error:
        read_phy(folder)
    assert str(folder) in str(error.value)


def test_no_folder_and_a_file_say_so(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such folder"):
        read_phy(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match="a file"):
        read_phy(tmp_path / "file")


def test_unusable_label_file_is_noted(folder: Path) -> None:
    (folder / "cluster_extra.tsv").write_text("a\tb\n1\t2\n")
    recording = read_phy(folder)
    assert any("cluster_extra.tsv left out" in note for note in recording.notes)
