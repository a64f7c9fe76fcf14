"""Settings of an SAE: what is refused, what is filled in, and the way through JSON."""

from __future__ import annotations

import dataclasses
import importlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebook.errors import ConfigError, DataError
from saebook.models import ARCHITECTURES, SAE, SCALINGS, SAEConfig
from saebook.training import TrainConfig, fit

RELU, TOPK, JUMP = ({"architecture": name} for name in ("relu", "topk", "jumprelu"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"k": 21}, "between 1 and d_sae = 20"),
        ({"k": 0}, "between 1"),
        ({"k": 2.5}, "whole number"),
        ({"k": True}, "whole number"),
        ({"d_in": 0}, "at least 1"),
        ({"seq_len": 0}, "at least 1"),
        ({"d_out": 0}, "at least 1"),
        ({"k_aux": 0}, "at least 1"),
        ({"aux_coefficient": float("nan")}, "finite"),
        ({"aux_coefficient": -1.0}, "negative"),
        ({"apply_b_dec_to_input": 1}, "True or False"),
        ({"prefixes": 20}, "a list of whole numbers"),
        # Sparsity has one owner.
        ({"sparsity_coefficient": 0.1}, "set by k.*architecture='relu' or 'jumprelu'"),
        (TOPK | {"target_l0": 4.0}, "target_l0 = 4.0 with topk: .*set by k; leave target_l0 out"),
        (TOPK | {"sparsity": "l1"}, "set by k"),
        (RELU | {"k": 3}, "leave k out, or use architecture='topk'"),
        (RELU | {"sparsity_coefficient": -1.0}, "negative"),
        (RELU | {"sparsity": "l0_step"}, "sparsity .for relu. = 'l0_step': choose one of"),
        (RELU | {"target_l0": 21.0}, "can't exceed d_sae = 20"),
        (RELU | {"target_l0": 0.0}, "greater than 0"),
        (RELU | {"tanh_b": 0.0}, "greater than 0"),
        ({"architecture": "leaky_relu", "leak": 1.0}, "between 0 and 1"),
        (RELU | {"threshold_init": 0.1}, "only jumprelu"),
        (JUMP | {"threshold_init": -0.1}, "negative"),
        (JUMP | {"bandwidth": 0.0}, "greater than 0"),
        # Nesting.
        ({"prefixes": [10, 5, 20]}, "must increase"),
        ({"prefixes": [5, 5, 20]}, "must increase"),
        ({"prefixes": [0, 20]}, "from at least 1"),
        ({"prefixes": [5, 10]}, "end before or after d_sae = 20"),
        ({"prefixes": [5, 20], "prefix_k": [2]}, "1 values for 2 prefixes"),
        ({"prefix_weights": [1.0]}, "1 values for 0 prefixes"),
        ({"prefixes": [5, 20], "prefix_weights": [0.0, 0.0]}, "above 0"),
        ({"prefixes": [5, 20], "prefix_k": [6, 7]}, "each between 1 and its prefix"),
        ({"prefixes": [5, 20], "prefix_k": [1, 2], "k": 3}, "give one of them"),
        (RELU | {"prefixes": [5, 20], "prefix_k": [1, 2]}, "use prefix_sparsity"),
        (TOPK | {"prefixes": [5, 20], "prefix_sparsity": [2.0, 1.0]}, "use prefix_k"),
        (JUMP | {"prefixes": [5, 20], "prefix_sparsity": [2.0, 1.0]}, "sparsity='l0_step'"),
        # Spaces and losses.
        ({"reconstruction": "lmse", "output": "none"}, "use output='softplus' or 'relu'"),
        ({"reconstruction": "pkl", "output": "none"}, "use output='softplus' or 'relu'"),
        ({"reconstruction": "pkl", "output": "relu"}, "use output='softplus'"),
        ({"reconstruction": "mse", "lmse_tau": 2.0}, "belongs to lmse"),
        ({"apply_b_dec_to_input": True, "reconstruction": "lmse"}, "another space"),
        ({"apply_b_dec_to_input": True, "input_scaling": "sqrt"}, "another space"),
        ({"apply_b_dec_to_input": True, "d_out": 3}, "another space"),
        ({"apply_b_dec_to_input": True, "seq_len": 3}, "another space"),
        ({"input_scaling": "layer_norm", "d_out": 3}, "no scale per example; use 'scale'"),
        ({"d_hidden": 8}, "belongs to decoder='mlp'"),
        # Terms for dead latents.
        ({"auxiliary": "preactivation"}, "use auxiliary='auxk' or 'ghost'"),
        (RELU | {"aux_coefficient": 0.1}, "choose one, auxiliary='auxk'"),
        # Names.
        ({"architecture": "topkk"}, "did you mean 'topk'"),
        ({"input_scaling": "scaled"}, "did you mean 'scale'"),
        ({"decoder_norm": "half"}, "choose one of"),
        ({"decoder": "mpl"}, "did you mean 'mlp'"),
        ({"reconstruction": "lsme"}, "did you mean 'lmse'"),
        ({"output": "softpus"}, "did you mean 'softplus'"),
        ({"auxiliary": "gost"}, "did you mean 'ghost'"),
        ({"decoder_init": "xaviar"}, "did you mean 'xavier'"),
        ({"encoder_init": "transposed"}, "did you mean 'transpose'"),
        ({"b_dec_init": "geometric_mean"}, "did you mean 'geometric_median'"),
        ({"b_enc_init": "centre"}, "did you mean 'center'"),
        ({"target": "first"}, "choose one of 'last', 'all'"),
    ],
)
def test_contradictory_settings_are_refused_with_the_remedy(changes, says):
    with pytest.raises(ConfigError, match=says):
        SAEConfig(**({"d_in": 6, "d_sae": 20} | changes))


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(ConfigError, match="did you mean 'd_sae'"):
        SAEConfig.from_dict({"d_in": 6, "d_sea": 20})


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SAEConfig(d_in=2, d_sae=4).k = 1  # pyright: ignore[reportAttributeAccessIssue]


@st.composite
def configs(draw) -> SAEConfig:
    """Valid settings of any kind."""
    d_in, d_sae = draw(st.integers(1, 40)), draw(st.integers(4, 300))
    rule = ARCHITECTURES[architecture := draw(st.sampled_from(sorted(ARCHITECTURES)))]
    mode = draw(st.sampled_from(sorted(SCALINGS)))
    chosen = {
        "architecture": architecture,
        "input_scaling": mode,
        "reconstruction": draw(st.sampled_from(["auto", "mse", "lmse", "pkl"])),
        "decoder": draw(st.sampled_from(["linear", "mlp"])),
        "seq_len": draw(st.integers(1, 4)),
        "target": draw(st.sampled_from(["last", "all"])),
        "decoder_init": draw(st.sampled_from(["unit", "he", "xavier", "data"])),
        "aux_coefficient": draw(st.sampled_from([None, 0.0])),
        "d_out": None if SCALINGS[mode].per_example else draw(st.none() | st.integers(1, 9)),
    }
    if draw(st.booleans()):
        sizes = draw(st.sets(st.integers(1, d_sae - 1), max_size=3))
        chosen["prefixes"] = (*sorted(sizes), d_sae)
        chosen["prefix_weights"] = tuple(1.0 + i for i in range(len(sizes) + 1))
        if rule.uses_k and draw(st.booleans()):
            chosen["prefix_k"] = tuple(min(2, size) for size in chosen["prefixes"])
    if not rule.uses_k:
        chosen["sparsity"] = draw(st.sampled_from([None, *rule.sparsity_choices]))
        chosen["target_l0"] = draw(st.none() | st.floats(0.5, 4))
    return SAEConfig(d_in=d_in, d_sae=d_sae, **chosen)


@settings(deadline=None, max_examples=150)
@given(config=configs(), counts=st.booleans())
def test_settings_survive_json_before_and_after_the_data_decide(config, counts):
    for any_config in (config, config.for_data(counts)):
        text = json.dumps(any_config.to_dict())
        assert SAEConfig.from_dict(json.loads(text)) == any_config
    assert config.for_data(counts).reconstruction != "auto"


# --- what the data decide ---------------------------------------------------------------


def test_auto_is_lmse_on_counts_and_mse_otherwise():
    config = SAEConfig(d_in=6, d_sae=20)
    counts, others = config.for_data(counts=True), config.for_data(counts=False)
    assert (counts.reconstruction, counts.output, counts.apply_b_dec_to_input) == (
        "lmse",
        "relu",
        False,
    )
    assert counts.b_enc_init == "center"
    assert (others.reconstruction, others.output, others.apply_b_dec_to_input) == (
        "mse",
        "none",
        True,
    )


def test_a_choice_made_under_auto_holds_when_the_data_turn_out_to_be_counts():
    assert SAEConfig(d_in=6, d_sae=20, b_enc_init="zero").for_data(True).b_enc_init == "zero"
    with pytest.raises(ConfigError, match="or reconstruction='mse'"):
        SAEConfig(d_in=6, d_sae=20, output="none").for_data(counts=True)
    with pytest.raises(ConfigError, match=r"another space.*or reconstruct.*reconstruction='mse'"):
        SAEConfig(d_in=6, d_sae=20, apply_b_dec_to_input=True).for_data(counts=True)


def test_a_transcoder_is_judged_by_its_targets_not_by_its_inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=generator)
    counts = torch.poisson(torch.full((64, 3), 1.0), generator=generator)
    short = TrainConfig(n_steps=3, batch_size=16, device="cpu")
    config = SAEConfig(d_in=6, d_sae=12, d_out=3)
    assert fit(config, (x, counts), short, progress=False).sae.config.reconstruction == "lmse"
    to_values = SAEConfig(d_in=3, d_sae=12, d_out=6)
    run = fit(to_values, (counts, x), short, progress=False)
    assert run.sae.config.reconstruction == "mse"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reconstruction": "lmse"}, "smallest target is -2.*reconstruction='mse'"),
        ({"reconstruction": "pkl"}, "smallest target is -2.*reconstruction='mse'"),
        ({"input_scaling": "sqrt"}, "smallest input is -2.*use 'scale'"),
    ],
)
def test_count_settings_refuse_negative_values_before_training(changes, says):
    x = torch.ones(64, 6)
    x[::2] = 3.0
    x[17, 2] = -2.0
    config = SAEConfig(d_in=6, d_sae=20, **changes)
    with pytest.raises(DataError, match=says):
        SAE(config).fit_inputs(x)
    with pytest.raises(DataError, match=says):
        fit(config, x, TrainConfig(n_steps=2, device="cpu"), progress=False)


def test_a_negative_value_between_the_rows_that_are_fitted_is_refused_too(monkeypatch):
    monkeypatch.setattr(importlib.import_module("saebook.training.fit"), "FIT_ROWS", 4)
    x = torch.ones(64, 6)
    x[3, 0] = -1.0
    config = SAEConfig(d_in=6, d_sae=20, reconstruction="lmse")
    with pytest.raises(DataError, match="smallest target is -1"):
        fit(config, x, TrainConfig(n_steps=2, device="cpu"), progress=False)
