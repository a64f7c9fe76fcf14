"""The measurements of a GPU are made, survive their failures, and are set beside what was asked.

Here they run on the CPU at toy sizes, where nothing can be recorded.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from saebook.__main__ import main
from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig
from saebook.training.speed import Workload, examples
from saebook.training.speed.gpu import CASES, measure_all, summary
from saebook.training.speed.gpu import cases as gpu_cases
from saebook.training.speed.gpu.cases import Case, cases_of
from saebook.training.speed.gpu.isolated import Measurer
from saebook.training.speed.gpu.measuring import KINDS, measure_case, memory_needed
from saebook.training.speed.gpu.timing import back_to_back
from saebook.training.speed.steps import BATCHES, made_on, make_trainer

TINY = Workload(8, 32, 16, "batchtopk", 2)
CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch):
    """Rounds of a few steps; kernels aren't interpreted, which takes seconds for each."""
    monkeypatch.setattr("saebook.training.speed.gpu.timing.LONGEST_S", 0.02)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def tiny_cases() -> dict[str, Case]:
    return cases_of(TINY, dataclasses.replace(TINY, d_in=16), (1, 2), size=32)


@pytest.mark.usefixtures("quick")
def test_every_kind_of_case_is_measured_or_says_why_not():
    told = []
    results = measure_all(
        [dataclasses.replace(case, precision="fp32") for case in tiny_cases().values()],
        "cpu",
        isolated=False,
        each=lambda case, found: told.append(case.name),
    )
    assert list(results) == told == list(tiny_cases())
    done = {name for name, found in results.items() if "failed" not in found}
    failed = {name: found["failed"] for name, found in results.items() if "failed" in found}
    assert "large topk, dense bf16" in done and "2 small, dense fp32, not recorded" in done
    assert {"copy", "encoder of large", "product tf32"} <= done
    assert "capture='always': the device is cpu" in failed["2 small, dense fp32, recorded"]
    step = results["large batchtopk, dense bf16, dead latents"]
    assert step["wall_us"] > 0 and step["l0"] == 2.0 and step["engines"] == ["dense"]
    assert step["dead"] == pytest.approx(4 / 32) and step["recordings"] == 0
    kernels = step["profile"]["kernels"]
    assert sum(row["share"] for row in kernels) <= 1 + 1e-9
    assert any("mm" in row["name"] for row in kernels)
    assert {case.kind for case in tiny_cases().values()} == set(KINDS)
    json.dumps(results, allow_nan=False)
    rows = summary(results, (1, 2))
    large = next(row for row in rows if row.what == "step of a large topk")
    assert large.measured == results["large topk, dense bf16"]["wall_us"] / 1000
    assert next(row for row in rows if "one small" in row.what).measured is None


def test_what_is_asked_is_set_beside_what_is_found():
    found = {
        "1 small, dense fp32, recorded": {"wall_us": 100.0},
        "1 small, fused fp32, recorded": {"wall_us": 200.0},
        "64 small, fused fp32, recorded": {"wall_us": 601.0},
        "64 small, dense fp32, recorded": {"failed": "RuntimeError: no"},
        "1 small, dense bf16, recorded": {"wall_us": 160.0},
        "64 small, dense bf16, recorded": {"wall_us": 639.0},
        "SAELens, small": {"wall_us": 1600.0},
        "encoder of large": {"share_of_peak": 0.7},
        "large topk, fused bf16": {
            "wall_us": 25_000.0,
            "memory_needed_gb": 10.7,
            "peak_memory_gb": 11.0,
        },
    }
    rows = {row.what: row for row in summary(found)}
    assert rows["step of one small SAE, fp32"].case == "1 small, dense fp32, recorded"
    asked = {name: (row.asked, row.met) for name, row in rows.items()}
    assert asked["step of one small SAE, fp32"] == (120.0, True)
    assert asked["step of 64 stacked, fp32"] == (600.0, False)
    assert asked["step of one small SAE, bf16"] == (120.0, False)
    assert asked["step of 64 stacked, bf16"] == (640.0, True)
    assert rows["times SAELens' speed, fp32"].measured == 16.0
    assert asked["times SAELens' speed, bf16"] == (15.0, False)
    assert asked["encoder's product, share of peak"] == (0.6, True)
    assert asked["step of a large topk"] == (26.0, True)
    assert asked["memory of a large topk"] == (10.7, False)
    assert "step of a large batchtopk" not in rows
    assert summary({})[0].met is None


def test_the_sizes_are_those_asked_for():
    large = CASES["large batchtopk, fused bf16"].workload
    assert large == Workload(4096, 65536, 8192, "batchtopk", 64)
    # 537 million weights, their gradients and two moments in fp32; 2 × [8192, 65536] of bf16
    assert large is not None
    assert memory_needed(large) / 1e9 == pytest.approx(8.59 + 2.15, abs=0.01)
    one, many = (CASES[f"{n} small, fused fp32, recorded"].workload for n in (1, 64))
    assert one is not None and one == Workload(128, 1024, 1024, "batchtopk", 16)
    assert many == dataclasses.replace(one, n_models=64)
    assert all(name == case.name for name, case in CASES.items())


def test_a_model_is_made_on_its_device_as_others_are():
    config = SAEConfig(d_in=16, d_sae=64, k=4)
    made, plain = made_on(CPU, config, seed=3), SAE(config, seed=3)
    torch.testing.assert_close(made.W_dec.norm(dim=1), torch.ones(64))
    assert made.encoder_rows.equal(made.W_dec) and not made.W_dec.equal(plain.W_dec)
    assert abs(float(made.W_dec.detach().mean())) < 0.02
    for (name, own), (_, other) in zip(made.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(own, other, equal_nan=True, msg=name)
    assert not made.b_enc.any() and not made.b_dec.any()


def test_dead_latents_stay_dead_and_are_helped():
    workload = dataclasses.replace(TINY, dead=0.25)
    x = examples(workload)
    train = TrainConfig(device="cpu", dead_after_firings=1e9)
    trainer = make_trainer(workload, train, x)
    for i in range(2 * BATCHES):
        logged = trainer.step(x.split(16)[i % BATCHES])
    assert float(logged["dead"]) == 0.25 and float(logged["auxk"]) > 0
    assert trainer.dead(16).nonzero().flatten().tolist() == list(range(0, 32, 4))


def test_time_is_of_one_piece_of_work():
    counted = []
    timing = back_to_back(lambda: counted.append(0), CPU, n=50, rounds=4, warmup=2)
    assert len(counted) == 2 + 1 + 3 + 4 * 50
    assert timing.asking_us == timing.wall_us and timing.device_us is None


def test_what_fails_or_ends_its_process_leaves_the_others():
    measurer = Measurer("cpu")
    try:
        assert measurer(Case("no such", "kind"), 60.0) == {"failed": "KeyError: 'kind'"}
        first = measurer._process
        assert measurer(Case("product", "product", precision="fp32", size=16), 60.0)["ms"] > 0
        assert measurer._process is first
        first.kill()
        found = measurer(Case("product", "product", precision="fp32", size=16), 60.0)
        assert found == {"failed": "its process ended (exit code -9)"}
        assert measurer(Case("product", "product", precision="fp32", size=16), 60.0)["ms"] > 0
        found = measurer(Case("product", "product", precision="fp32", size=2048), 0.01)
        assert found == {"failed": "it took more than 0 s"} and measurer._process is None
    finally:
        measurer.close()


def test_nothing_is_begun_when_the_time_is_over():
    case = Case("product", "product", precision="fp32", size=16)
    found = measure_all([case], "cpu", most_s=-1.0, isolated=False)
    assert "were over" in found["product"]["left_out"]


def test_warnings_are_kept_beside_the_number(monkeypatch):
    def warning(case, device):
        import warnings

        warnings.warn("slower, and the same numbers", stacklevel=2)
        return {"ms": 1.0}

    monkeypatch.setitem(KINDS, "product", warning)
    found = measure_case(Case("product", "product"), CPU)
    assert found == {"ms": 1.0, "warnings": ["slower, and the same numbers"]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_the_command_says_what_is_missing(capsys):
    assert main(["bench", "--device", "cuda"]) == 2
    assert "device 'cuda' can't be used here" in capsys.readouterr().err


def test_the_command_prints_and_keeps_a_gpus_table(monkeypatch, tmp_path, capsys):
    from saebook.training.speed import gpu
    from saebook.training.speed.gpu import machine

    steps = {"wall_us": 110.0, "device_us": 100.0, "asking_us": 20.0, "warnings": ["so"]}
    steps |= {"peak_memory_gb": 11.0, "memory_needed_gb": 10.0, "profile": {"busy_us": 90.0}}
    answers = {"1 small, fused fp32, recorded": steps, "copy": {"tb_s": 3.0}}

    def measured(cases, device, *, most_s, each):
        assert device == "cuda" and most_s == 100.0
        found = {case.name: answers.get(case.name, {"failed": "no"}) for case in cases}
        for case in cases:
            each(case, found[case.name])
        return found

    about = {"device": "some GPU", "driver": None, "versions": {"torch": "2"}}
    monkeypatch.setattr(machine, "describe", lambda device: about)
    monkeypatch.setattr(gpu, "measure_all", measured)
    monkeypatch.setattr("saebook.training.resolve_device", lambda name: torch.device(name))
    out = tmp_path / "new" / "gpu.json"
    assert main(["bench", "--device", "cuda", "--seconds", "100", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "110 µs, 100 between events, 20 to ask, 90 in kernels, 11.00 GB of 10.00" in told
    assert "tb_s 3" in told and "failed: no" in told and "warned: so" in told
    assert told.index("asked") > told.index(list(gpu_cases.CASES)[-1])
    kept = json.loads(out.read_text())
    assert kept["device"] == "some GPU" and set(kept["measurements"]) == set(CASES)
    assert kept["asked"][0] | {"case": ""} == {
        "what": "step of one small SAE, fp32", "relation": "≤", "asked": 120.0,
        "measured": 110.0, "unit": "µs", "case": "", "met": True,
    }  # fmt: skip
    assert main(["bench", "--device", "cuda", "--engine", "dense"]) == 2
    assert "--engine is for a CPU's workloads" in capsys.readouterr().err
    assert main(["bench", "--device", "cuda", "--workloads", "topk"]) == 2
    assert "no workload is named 'topk' on a GPU" in capsys.readouterr().err
