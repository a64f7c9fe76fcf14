"""The run doctor: every detector fires on its fault and is silent on the remedy."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from saebook.data.store import BatchStream
from saebook.errors import ConfigError, TrainingError
from saebook.models import SAE, SAEConfig
from saebook.training import (
    Diagnosis,
    Finding,
    TrainConfig,
    Trainer,
    check_budget,
    diagnose,
    fit,
    load_run,
)
from saebook.training.doctor import DETECTORS, Evidence, RowScores, Watch, examine, score_rows
from saebook.training.doctor.coefficient import largest_coefficient
from saebook.training.doctor.numbers import batch_rows

TRAIN = TrainConfig(n_steps=120, batch_size=64, learning_rate=5e-3, device="cpu", n_logs=40)


def examples(n: int = 1500, seed: int = 0, d_in: int = 12) -> torch.Tensor:
    """Sparse features in superposition; all seeds share the dictionary."""
    dictionary = torch.randn(20, d_in, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n, 20, generator=generator) < 0.12
    return (torch.rand(n, 20, generator=generator) + 0.5) * active @ dictionary


def model(architecture: str = "topk", **changes) -> SAEConfig:
    given = {"k", "target_l0", "sparsity_coefficient"} & set(changes)
    if not given:
        changes["k" if architecture in ("topk", "batchtopk") else "target_l0"] = 3
    return SAEConfig(d_in=12, d_sae=24, architecture=architecture, **changes)


def train(config: SAEConfig | None = None, x: torch.Tensor | None = None, **changes):
    x = examples() if x is None else x
    return fit(config or model(), x, dataclasses.replace(TRAIN, **changes), progress=False)


@pytest.fixture(scope="module")
def sound():
    """A run without a fault."""
    return train()


def names(run, x=None, validation=None) -> tuple[str, ...]:
    return diagnose(run, examples() if x is None else x, validation).names


# Evidence made by hand: a sound run, and one change that makes each detector fire.


def history(**columns) -> pd.DataFrame:
    n = 20
    sound = {
        "step": range(6, 6 * n + 1, 6),
        "learning_rate": [3e-3] * n,
        "mse": [12.0 - 0.5 * i for i in range(n)],
        "total": [12.0 - 0.5 * i for i in range(n)],
        "fvu": [1 - 0.045 * i for i in range(n)],
        "l0": [3.0] * n,
        "dead": [0.0] * n,
        "grad_norm": [1.0] * n,
        "decoder_norm": [1.0] * n,
    }
    return pd.DataFrame(sound | columns)


def row_scores(**changes) -> RowScores:
    sound = {
        "n_examples": 1000,
        "mean_square": 1.0,
        "heaviest_share": 0.02,
        "fvu": 0.145,
        "l0": 3.0,
        "training_fvu": 0.145,
        "training_l0": 3.0,
        "block_fvu": (0.14, 0.15, 0.14, 0.15),
        "density": torch.full((24,), 3 / 24, dtype=torch.float64),
        "batch_dependence": 0.0,
    }
    return RowScores(**sound | changes)


def evidence(config: SAEConfig | None = None, **changes) -> Evidence:
    config = config or model()
    sae = SAE(config)
    sae.target_variance.fill_(12.0)
    sound = {
        "config": sae.config,
        "history": history(),
        "train": TRAIN,
        "n_steps": 120,
        "card": {"fvu": 0.145, "l0": 3.0, "dead_fraction": 0.0, "flags": {}},
        "sae": sae,
        "training": row_scores(),
        "held_out": row_scores(),
    }
    return Evidence(**sound | changes)


def mostly(value: float, n: int = 24) -> torch.Tensor:
    """Densities of a dictionary of which the first half has this one."""
    density = torch.full((n,), 0.01, dtype=torch.float64)
    density[: n // 2] = value
    return density


def copied() -> SAE:
    sae = SAE(model())
    with torch.no_grad():
        for parameter in (sae.W_dec, sae.encoder_rows):
            parameter[12:] = parameter[:12]
    return sae


def zeroed() -> SAE:
    sae = SAE(model())
    with torch.no_grad():
        sae.W_dec.zero_()
    return sae


def broken(name: str = "b_enc") -> SAE:
    sae = SAE(model())
    with torch.no_grad():
        sae.get_parameter(name)[0] = math.nan
    return sae


L1 = model("relu", sparsity_coefficient=0.2)
PLAIN_L1 = model("relu", sparsity_coefficient=0.2, sparsity="l1", decoder_norm="free")
RISING = [0.1 + 0.1 * i for i in range(20)]
TOO_LOW = {"learning_rate": [1e-6] * 20, "fvu": [0.9] * 20}
RAISED = row_scores(fvu=0.4, block_fvu=(0.39, 0.41, 0.4, 0.4))
SINGLE = row_scores(fvu=0.4, block_fvu=(0.2, 0.6, 0.2, 0.6))

FAULTS = {
    "not_finite": [
        {"history": history(total=[1.0] * 19 + [math.nan])},
        {"sae": broken()},
    ],
    "silent": [
        {"history": history(l0=[3.0] * 10 + [0.0] * 10)},
        {"training": row_scores(l0=0.0)},
    ],
    "other_weights": [
        {"sae": zeroed()},
        {"training": row_scores(training_fvu=0.8)},
        {"training": None, "card": {"fvu": 1.2, "l0": 0.0}},
    ],
    "batch_dependent": [{"training": row_scores(batch_dependence=0.9)}],
    "inference_differs": [{"training": row_scores(l0=4.5)}],
    "worse_than_mean": [
        {"card": {"fvu": 1.89, "l0": 3.0}},
        {"card": {}, "history": history(fvu=[1.2] * 20)},
    ],
    "barely_trained": [{"history": history(**TOO_LOW)}],
    "inputs_off_scale": [
        {"training": row_scores(mean_square=100.0)},
        {
            "training": row_scores(mean_square=0.01),
            "config": model(input_scaling="none"),
        },
    ],
    "extreme_rows": [{"training": row_scores(heaviest_share=0.7)}],
    "coefficient_off_scale": [
        {"config": model("relu", sparsity_coefficient=200.0)},
        {
            "config": model("relu", sparsity_coefficient=1e-6),
            "history": history(l0=[12.0] * 20),
        },
    ],
    "l0_away_from_target": [
        {"training": row_scores(l0=4.0)},
        {"training": row_scores(l0=9.0)},
        {"training": None, "card": {"l0": 1.0}},
    ],
    "dead": [
        {"training": row_scores(density=mostly(0.0))},
        {
            "training": row_scores(density=mostly(0.0)),
            "train": dataclasses.replace(TRAIN, learning_rate=0.1),
        },
    ],
    "dense": [{"training": row_scores(density=mostly(0.9))}],
    "decoder_norms": [
        {"config": PLAIN_L1, "history": history(decoder_norm=RISING)},
        {"config": L1, "history": history(decoder_norm=RISING[::-1])},
    ],
    "leaks": [{"training": row_scores(active_fvu=0.3)}],
    "duplicates": [{"sae": copied()}],
    "validation_drift": [{"held_out": RAISED}],
    "identity": [{"card": {"flags": {"identity": "64 latents suffice: beware"}}}],
    "raw_units": [{"card": {"flags": {"raw_units": "raw units score 0.1: beware"}}}],
    "constant": [{"card": {"flags": {"constant": "no variance"}}}],
}
# More than half dead whatever the rate; only a quarter where the rate is high.
FAULTS["dead"][0]["training"] = row_scores(
    density=torch.cat([torch.zeros(19), torch.full((5,), 0.6)]).double()
)


def test_there_is_a_case_for_every_detector():
    assert set(FAULTS) == set(DETECTORS)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_fires_on_its_fault_alone(name):
    check = DETECTORS[name].check
    assert check(evidence()) is None
    for changes in FAULTS[name]:
        finding = check(evidence(**changes))
        assert finding is not None and finding.name == name
        assert finding.evidence and finding.cause and finding.remedy


def test_sound_evidence_leaves_nothing_to_say():
    diagnosis = examine(evidence())
    assert len(diagnosis) == 0 and str(diagnosis) == f"no findings of {len(DETECTORS)} checks"


def test_no_detector_stumbles_over_missing_evidence():
    bare = Evidence(model())
    for detector in DETECTORS.values():
        if not detector.needs:
            assert detector.check(bare) is None
    diagnosis = examine(bare)
    assert diagnosis.unchecked["dense"] == "training rows"
    assert "not checked without training rows" in str(diagnosis)
    assert set(diagnosis.checked) | set(diagnosis.unchecked) == set(DETECTORS)


def test_rows_that_shrink_under_a_weighted_penalty_are_at_fault_where_nothing_is_reconstructed():
    shrinking = [1.0 - 0.04 * i for i in range(20)]  # by three quarters
    check = DETECTORS["decoder_norms"].check
    assert check(evidence(L1, history=history(decoder_norm=shrinking))) is None
    failed = history(decoder_norm=shrinking, fvu=[1.0] * 20)
    assert check(evidence(L1, history=failed)) is not None


def test_what_latents_below_zero_reconstruct_is_measured():
    x = examples()
    sae = SAE(model("leaky_relu", leak=0.3))
    sae.fit_inputs(x)
    rows = score_rows(sae.eval(), x)
    with torch.no_grad():
        made = sae.decode(sae.encode(x).clamp_min(0.0))
    expected = (x - made).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert rows.active_fvu == pytest.approx(float(expected), rel=1e-4)
    assert rows.active_fvu != pytest.approx(rows.fvu, rel=1e-3)
    without = SAE(model("relu"))
    without.fit_inputs(x)
    assert math.isnan(score_rows(without.eval(), x).active_fvu)


def test_what_is_logged_at_some_steps_alone_is_no_fault():
    gaps = history(resampled=[math.nan, 2.0] * 10, validation_fvu=[math.nan] * 19 + [0.3])
    assert DETECTORS["not_finite"].check(evidence(history=gaps)) is None
    run = train(model(auxiliary="none"), resample_every=0.1)
    assert bool(np.isnan(run.history["resampled"].to_numpy()).any())
    assert "not_finite" not in run.findings


def test_noise_between_blocks_excuses_a_gap():
    assert DETECTORS["validation_drift"].check(evidence(held_out=SINGLE)) is None


def test_zero_dead_latents_at_an_ordinary_rate_take_more_than_half():
    half = row_scores(density=mostly(0.0))
    assert DETECTORS["dead"].check(evidence(training=half)) is None


def test_the_causes_of_silence_are_told_apart():
    def cause(**changes) -> str:
        found = DETECTORS["silent"].check(evidence(**changes))
        assert found is not None
        return found.cause

    dying = history(l0=[3.0] * 10 + [0.0] * 10)
    strong = model("relu", sparsity_coefficient=200.0)
    assert "± the learning rate whatever λ is" in cause(config=strong, history=dying)
    fast = dataclasses.replace(TRAIN, learning_rate=0.5)
    assert "learning rate that kills" in cause(train=fast, history=dying)
    assert "not what was trained" in cause(training=row_scores(l0=0.0))


def test_the_largest_coefficient_is_where_a_perfect_latent_costs_what_it_gains():
    # V = 12: one latent of size √12 gains 12; L1 charges √12 λ for it, a step charges λ.
    assert largest_coefficient(evidence(L1)) == pytest.approx(math.sqrt(12))
    step = model("jumprelu", sparsity="l0_step", sparsity_coefficient=0.1)
    assert largest_coefficient(evidence(step)) == pytest.approx(12.0)
    tanh = model("relu", sparsity="tanh", sparsity_coefficient=0.1, tanh_a=2.0, tanh_b=4.0)
    assert largest_coefficient(evidence(tanh)) == pytest.approx(24.0, rel=1e-4)
    assert math.isnan(largest_coefficient(evidence(model("topk"))))


def test_a_convention_that_explains_the_factor_is_named():
    for factor, words in ((12, "averaged over d_in would"), (12 * 64, "beside a penalty summed")):
        config = model("relu", sparsity_coefficient=0.08 * math.sqrt(12) * factor)
        finding = DETECTORS["coefficient_off_scale"].check(evidence(config))
        assert finding is not None and words in finding.cause


# Real runs, broken and mended.


def test_a_sound_run_has_no_findings(sound):
    assert names(sound, examples(), examples(seed=1)) == ()
    assert sound.findings == {}


@pytest.mark.parametrize(
    ("fault", "broken_settings", "mended_settings"),
    [
        ("barely_trained", {"learning_rate": 1e-6}, {"learning_rate": 3e-3}),
        (
            "silent",
            {"config": model("relu", sparsity_coefficient=1e3)},
            {"config": model("relu", sparsity_coefficient=0.2)},
        ),
        (
            "coefficient_off_scale",
            {"config": model("relu", sparsity_coefficient=0.2 * 12 * 64)},
            {"config": model("relu", sparsity_coefficient=0.2)},
        ),
        (
            "coefficient_off_scale",
            {"config": model("relu", sparsity_coefficient=1e-6)},
            {"config": model("relu", sparsity_coefficient=0.2)},
        ),
        (
            "inputs_off_scale",
            {"config": model(input_scaling="none"), "x": 100 * examples()},
            {"config": model(), "x": 100 * examples()},
        ),
        (
            "dead",
            {"config": model(auxiliary="none"), "learning_rate": 1.0},
            {"config": model(auxiliary="none")},
        ),
        (
            "decoder_norms",
            {
                "config": model(
                    "relu", sparsity="l1", decoder_norm="free", sparsity_coefficient=0.5
                ),
                "learning_rate": 1e-2,
            },
            {
                "config": model("relu", sparsity="l1", sparsity_coefficient=0.5),
                "learning_rate": 1e-2,
            },
        ),
        (
            "dense",
            {
                "config": model(b_dec_init="zero", apply_b_dec_to_input=False, b_enc_init="zero"),
                "x": examples() + 5,
            },
            {"config": model(), "x": examples() + 5},
        ),
        (
            "l0_away_from_target",
            {"config": model("relu"), "controller_rate": 1e-5},
            {"config": model("batchtopk")},
        ),
        ("worse_than_mean", {"learning_rate": 50.0, "schedule": "constant"}, {}),
    ],
)
def test_training_with_a_fault_is_found_and_without_is_not(fault, broken_settings, mended_settings):
    for settings, expected in ((broken_settings, True), (mended_settings, False)):
        x = settings.get("x", examples())
        run = train(**settings)
        assert (fault in names(run, x)) is expected
        assert (fault in run.findings) is expected


def test_few_rows_of_massive_norm_are_found(sound):
    x = examples()
    x[::300] *= 100
    assert "extreme_rows" in names(train(x=x), x) and "extreme_rows" not in names(sound)


def test_weights_that_were_not_trained_are_found(sound):
    fresh = SAE(sound.sae.config, seed=5)
    fresh.fit_inputs(examples())
    found = diagnose(dataclasses.replace(sound, sae=fresh.eval()), examples())
    assert "other_weights" in found
    assert "where training began" in found.sentences["other_weights"]
    assert "other_weights" in names(sound, examples().flip(1))


def test_a_gap_between_training_and_inference_is_found_and_calibration_closes_it():
    from saebook.models.architectures import calibrate_threshold

    run = train(model("batchtopk"))
    assert "inference_differs" not in names(run)
    run.sae.threshold.mul_(0.5)
    assert "inference_differs" in names(run)
    calibrate_threshold(run.sae, examples())
    assert "inference_differs" not in names(run)


def test_latents_that_depend_on_the_batch_are_found():
    run = train(model("batchtopk"))
    run.sae.train()
    assert "batch_dependent" in names(run)
    run.sae.eval()
    assert "batch_dependent" not in names(run)


def test_copied_latents_are_found():
    @torch.no_grad()
    def copy(trainer: Trainer) -> dict[str, float]:
        for name in ("W_dec", "encoder_rows", "b_enc"):
            parameter = trainer.sae.get_parameter(name)
            parameter[12:] = parameter[:12]
        return {}

    settings = model("relu", sparsity_coefficient=0.1)
    run = fit(settings, examples(), TRAIN, probe=copy, progress=False)
    assert "duplicates" in names(run) and "duplicates" not in names(train(settings))


def test_held_out_rows_unlike_the_training_rows_are_found(sound):
    assert "validation_drift" in names(sound, examples(), examples(seed=1).flip(1))
    assert "validation_drift" not in names(sound, examples(), examples(seed=1))


def test_a_loss_that_is_not_finite_names_its_step_batch_and_row(tmp_path):
    x = examples()
    x[1234] = 1e30
    # Nothing but the batch that holds it meets the row: not the bias, not the scale.
    config = model("relu", sparsity_coefficient=0.1, input_scaling="none", b_dec_init="zero")
    with pytest.raises(TrainingError) as error:
        fit(config, x, TRAIN, out=tmp_path / "run", progress=False)
    message = str(error.value)
    stream = BatchStream(x, TRAIN.batch_size, seed=0)
    first = next(step for step in range(1, 121) if 1234 in batch_rows(stream, step))
    assert message.startswith(f"step {first}: ")
    assert "; row 1234 has a norm of 3.46e+30" in message
    with pytest.raises(TrainingError, match=r"step 1: .*not of it, but training row 1234 has"):
        fit(model(input_scaling="none"), x, TRAIN, progress=False)


def test_the_checkpoint_from_before_a_bad_step_is_kept(tmp_path):
    class Spoiled(Exception):
        pass

    path = tmp_path / "run"
    settings = dataclasses.replace(TRAIN, n_logs=7, n_checkpoints=50)

    @torch.no_grad()
    def spoil(trainer: Trainer) -> dict[str, float]:
        if trainer.step_number > 60:
            trainer.sae.W_dec[0] = math.nan
        return {}

    with pytest.raises(TrainingError, match="its last checkpoint, from before"):
        fit(model(), examples(), settings, out=path, probe=spoil, progress=False)
    state = torch.load(path / "checkpoint.pt", weights_only=True)
    assert state["trainer"]["step_number"] <= 72
    assert all(v.isfinite().all() for v in state["trainer"]["sae"].values())


def test_batches_after_the_first_epoch_are_named():
    x = torch.arange(10.0)[:, None]
    stream = BatchStream(x, batch_size=4, seed=1)
    for step in range(1, 8):
        assert batch_rows(stream, step).tolist() == next(stream).flatten().long().tolist()


def test_a_budget_shorter_than_its_warm_up_is_refused():
    with pytest.raises(ConfigError, match=r"n_steps = 48: .*2\.4 % of its peak.*1\.2 %.*step 1000"):
        check_budget(48, warmup_steps=2000, revival_steps=1000)
    check_budget(2000, warmup_steps=2000, revival_steps=1000)
    check_budget(48)


def test_resampling_that_could_never_act_is_refused():
    settings = {"resample_every": 0.01, "resample_until": 0.02}
    with pytest.raises(ConfigError, match="none would ever be resampled"):
        train(n_steps=20, **settings)  # pyright: ignore[reportArgumentType]
    train(n_steps=20, resample_every=0.25)


def test_diagnosis_reads_as_a_table_and_as_json(sound):
    error = Finding("silent", "error", "L0 is <0>", "all died", "lower λ")
    note = Finding("raw_units", "note", "FVU .1", "sparse", "beware")
    diagnosis = Diagnosis([note, error], checked=("silent", "raw_units"))
    assert [f.name for f in diagnosis] == ["silent", "raw_units"]
    assert "silent" in diagnosis and error in diagnosis and "dead" not in diagnosis
    assert "&lt;0&gt;" in diagnosis._repr_html_() and "<0>" not in diagnosis._repr_html_()
    assert "[error] silent" in str(diagnosis) and "remedy  lower λ" in str(diagnosis)
    assert json.loads(json.dumps(diagnosis.to_dict()))["findings"][0]["severity"] == "error"
    assert json.loads(json.dumps(diagnose(sound).to_dict()))["findings"] == []


def test_a_run_read_back_is_diagnosed_alike(tmp_path):
    run = fit(
        model("relu", sparsity_coefficient=1e3),
        examples(),
        TRAIN,
        out=tmp_path / "run",
        progress=False,
    )
    again = load_run(tmp_path / "run")
    assert again.findings == run.findings and "silent" in again.findings
    assert diagnose(again, examples()).names == diagnose(run, examples()).names
    assert again.settings["train"]["n_steps"] == TRAIN.n_steps


def test_looking_while_training_goes_on_tells_each_finding_once():
    sae = SAE(model("relu", sparsity_coefficient=0.2))
    rows = history(l0=[0.0] * 20).to_dict("records")
    watch = Watch(sae, TRAIN, n_steps=120)
    told = [[f.name for f in watch.look(rows[: i + 1])] for i in range(20)]
    assert told[0] == [] and sum("silent" in t for t in told) == 1


def test_one_bad_batch_early_on_is_not_told():
    sae = SAE(model())
    for bad, told in (([0.4, 0.3, 0.5, 0.3, 9.0], False), ([1.1, 0.9, 1.2, 1.0, 1.3], True)):
        rows = history(fvu=[0.9] * 3 + bad + [0.3] * 12).to_dict("records")[:8]
        found = [f.name for f in Watch(sae, TRAIN, n_steps=120).look(rows)]
        assert ("worse_than_mean" in found) is told


def test_scoring_rows_leaves_the_model_in_its_mode():
    run = train(model("batchtopk"))
    for mode in (True, False):
        run.sae.train(mode)
        before = [v.clone() for v in run.sae.state_dict().values()]
        scores = score_rows(run.sae, examples(), 64)
        assert run.sae.training is mode
        assert all(torch.equal(a, b) for a, b in zip(before, run.sae.state_dict().values()))
        assert scores.training_l0 == pytest.approx(3.0)


def test_row_scores_agree_with_the_card(sound):
    scores = score_rows(sound.sae, examples(), 64)
    assert scores.fvu == pytest.approx(sound.card["fvu"], rel=1e-5)
    assert scores.l0 == pytest.approx(sound.card["l0"])
    assert scores.mean_square == pytest.approx(1.0, rel=1e-4)


def test_every_shape_of_run_can_be_diagnosed():
    x = examples()
    windows = torch.stack([x[:-1], x[1:]], dim=1)
    for config, data in (
        (model(seq_len=2), windows),
        (model(seq_len=2, target="all"), windows),
        (model(d_out=12), (x, x * 2)),
        (model(input_scaling="layer_norm"), x),
        (model(decoder="mlp"), x),
        (model(prefixes=(6, 24)), x),
    ):
        run = fit(config, data, dataclasses.replace(TRAIN, n_steps=60), progress=False)
        found = diagnose(run, data)
        assert not {"other_weights", "inputs_off_scale", "batch_dependent"} & set(found.names)
