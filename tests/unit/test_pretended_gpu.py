"""Steps on a GPU that isn't there: nothing is left on the host, and nothing is read from the device.

Tensors without values know their device, so a tensor that a step forgot on the host raises as it
would beside a GPU's. torch's builds for a CPU know no CUDA device; a few lines of C++, compiled
here, give them one without a stream.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parents[1]
TORCH = Path(torch.__file__).parent
LIMIT_S = 240


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, str]:
    """What each case raised, in a process that pretends; an empty text where it raised nothing."""
    if torch.version.cuda is not None:
        pytest.skip("torch is built for CUDA, which can't be pretended beside it")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the pretended device with")
    folder = tmp_path_factory.mktemp("pretended")
    guard, out = folder / "guard.so", folder / "told.json"
    source = HERE / "fixtures" / "pretended_gpu.cpp"
    flags = ["-std=c++20", "-O0", "-shared", "-fPIC", f"-I{TORCH / 'include'}"]
    libraries = [f"-L{TORCH / 'lib'}", "-lc10", "-ltorch_cpu"]
    command = [compiler, *flags, str(source), *libraries, "-o", str(guard)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    if made.returncode:
        pytest.skip(f"the pretended device doesn't compile here: {made.stderr[-300:]}")
    done = subprocess.run(
        [sys.executable, str(HERE / "pretended_gpu.py"), str(guard), str(out)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert out.is_file(), f"exit code {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(out.read_text())


def test_no_step_leaves_a_tensor_on_the_host_or_reads_one_back(told):
    controls = ("left on the host", "read back")
    wrong = {name: raised for name, raised in told.items() if raised and name not in controls}
    assert not wrong
    assert len(told) > 30


def test_a_tensor_on_the_host_would_be_found(told):
    assert "FakeTensorDeviceMismatchError" in told["left on the host"]


def test_a_number_read_back_would_be_found(told):
    assert "DataDependentOutputException" in told["read back"]
