"""SAEs: how each architecture selects latents, gradients, files."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from saebook.errors import CheckpointError, ConfigError, DataError
from saebook.evaluation import evaluate
from saebook.models import ARCHITECTURES, SAE, SAEConfig, calibrate_threshold, load_sae, save_sae
from saebook.training import TrainConfig, Trainer, fit


def inputs(n: int = 64, d_in: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 + 2 * torch.randn(n, d_in, generator=generator)).clamp_min(0)


def make(architecture: str, **changes) -> SAE:
    k = 3 if ARCHITECTURES[architecture].uses_k else None
    config = SAEConfig(**({"d_in": 6, "d_sae": 20, "architecture": architecture, "k": k} | changes))
    sae = SAE(config, seed=1)
    sae.fit_inputs(inputs())
    return sae


# --- selection --------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_shapes_follow_the_contract(architecture):
    sae = make(architecture)
    x = inputs(8).reshape(2, 4, 6)
    reconstruction, latents, losses = sae(x)
    assert reconstruction.shape == x.shape
    assert latents.shape == (2, 4, 20)
    objective = sae.config.objective
    assert list(losses) == [
        objective.reconstruction,
        *objective.sparsity,
        *objective.companions,
    ]
    assert sae.W_enc.shape == (6, 20) and sae.W_dec.shape == (20, 6)
    assert (latents >= 0).all() or architecture == "leaky_relu"


def test_topk_keeps_the_k_largest_of_each_example():
    sae = make("topk", k=3)
    x = inputs(32)
    h = sae.pre_activations(x)
    latents = sae.encode(x)
    for row, kept in zip(h, latents, strict=True):
        largest = set(row.argsort(descending=True)[:3].tolist())
        expected = {j for j in largest if row[j] > 0}
        assert set(kept.nonzero().flatten().tolist()) == expected
        assert torch.equal(kept[kept > 0], row[kept > 0])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), n=st.integers(1, 9))
def test_topk_never_exceeds_k(seed, n):
    sae = make("topk", k=4)
    assert int((sae.encode(inputs(n, seed=seed)) > 0).sum(dim=1).max()) <= 4


def test_more_latents_wanted_than_positive_is_fewer_active_not_negative_ones():
    sae = make("topk", k=20)
    latents = sae.encode(inputs(16))
    assert (latents >= 0).all()
    assert int((latents > 0).sum(dim=1).max()) < 20


def test_batchtopk_shares_k_over_the_batch_in_training():
    sae = make("batchtopk", k=3).train()
    latents = sae.encode(inputs(32))
    h = sae.pre_activations(inputs(32)).relu()
    assert int((latents > 0).sum()) == 3 * 32
    assert bool(latents[latents > 0].min() >= h[latents == 0].max())


def test_batchtopk_at_inference_does_not_depend_on_the_rest_of_the_batch():
    sae = make("batchtopk").eval()
    x = inputs(64)
    calibrate_threshold(sae, x)
    together = sae.encode(x)
    alone = torch.cat([sae.encode(row[None]) for row in x])
    assert torch.equal(together > 0, alone > 0)
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_calibrated_threshold_gives_k_on_average_over_its_rows(k):
    sae = make("batchtopk", k=k, d_sae=200).eval()
    x = inputs(500)
    calibrate_threshold(sae, x)
    assert float((sae.encode(x) > 0).sum()) == k * len(x)


def test_batchtopk_without_a_threshold_refuses_inference():
    with pytest.raises(ConfigError, match="calibrate_threshold"):
        make("batchtopk").eval().encode(inputs(2))


def test_wrong_width_is_refused():
    with pytest.raises(DataError, match="d_in = 6"):
        make("relu").encode(torch.zeros(3, 5))


def test_same_seed_same_model():
    a, b, c = (SAE(SAEConfig(d_in=5, d_sae=9, k=2), seed=s) for s in (3, 3, 4))
    assert torch.equal(a.W_dec, b.W_dec)
    assert not torch.equal(a.W_dec, c.W_dec)


# --- jumprelu ---------------------------------------------------------------------------


def test_jumprelu_gradients_are_those_of_its_kernel():
    sae = make("jumprelu").double()
    with torch.no_grad():
        sae.threshold.copy_(torch.linspace(0.0, 2.0, 20))
        sae.bandwidth.fill_(0.7)
    h = sae.pre_activations(inputs().double()).detach().requires_grad_()
    weights = torch.randn(64, 20, generator=torch.Generator().manual_seed(3)).double()
    latents = sae.config.selection.select(sae, h)
    assert torch.equal(latents, h * (h > sae.threshold))
    (latents * weights).sum().backward()
    assert h.grad is not None and sae.threshold.grad is not None
    # To h: the identity where active. To θ: -h / ε within half a bandwidth of θ.
    assert torch.equal(h.grad, weights * (h > sae.threshold))
    near = ((h - sae.threshold).abs() < 0.35).double()
    assert 0 < near.sum() < near.numel()
    expected = -(weights * h * near / 0.7).sum(dim=0)
    assert torch.allclose(sae.threshold.grad, expected, rtol=1e-12)


def test_jumprelu_begins_with_its_target_and_a_bandwidth_of_the_spread():
    x = inputs(512)
    sae = SAE(SAEConfig(d_in=6, d_sae=40, architecture="jumprelu", target_l0=4.0, bandwidth=0.2))
    sae.fit_inputs(x)
    assert float((sae.encode(x) > 0).sum(dim=1).double().mean()) == pytest.approx(4.0, rel=0.01)
    spread = sae.pre_activations(x).std(correction=0).item()
    assert float(sae.bandwidth) == pytest.approx(0.2 * spread, rel=1e-4)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_the_quadratic_penalty_moves_l0_to_its_target_from_both_sides(start):
    config = SAEConfig(
        d_in=6, d_sae=40, architecture="jumprelu", target_l0=4.0, threshold_init=start
    )
    train = TrainConfig(
        n_steps=200, device="cpu", sparsity_schedule="none", selection_warmup_fraction=0.0
    )
    trainer = Trainer(SAE(config), train)
    l0 = [float(trainer.step(inputs(128, seed=i))["l0"]) for i in range(200)]
    assert abs(l0[0] - 4.0) > 1.0
    assert sum(l0[-20:]) / 20 == pytest.approx(4.0, rel=0.1)


# --- gated ------------------------------------------------------------------------------


def gated_with_own_magnitudes(**changes) -> SAE:
    sae = make("gated", **changes)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        sae.r_mag.copy_(torch.randn(20, generator=generator))
        sae.b_mag.copy_(torch.randn(20, generator=generator))
        sae.b_enc.copy_(torch.randn(20, generator=generator))
    return sae


def test_gated_selects_by_one_path_and_measures_by_the_other():
    sae = gated_with_own_magnitudes()
    x = inputs()
    projected = (sae.scaling(x) - sae.b_dec) @ sae.W_enc
    gate = (projected + sae.b_enc > 0).float()
    magnitude = (projected * sae.r_mag.exp() + sae.b_mag).relu()
    assert torch.allclose(sae.encode(x), gate * magnitude, atol=1e-5)
    differ = (gate > 0) != (magnitude > 0)
    assert differ.any()  # otherwise the two paths would not be told apart


@pytest.mark.parametrize(
    "changes",
    [{}, {"decoder": "mlp", "d_hidden": 9}, {"reconstruction": "pkl"}, {"output": "softplus"}],
)
def test_what_trains_the_gate_leaves_the_decoder_alone(changes):
    sae = gated_with_own_magnitudes(**changes)
    _, _, losses = sae(inputs())
    losses["gated_auxiliary"].backward()
    frozen = {"W_dec", "b_hidden", "W_out", "r_mag", "b_mag"}
    if not sae.config.apply_b_dec_to_input:
        frozen.add("b_dec")
    for name, parameter in sae.named_parameters():
        if name in frozen:
            assert parameter.grad is None or not parameter.grad.any(), name
    assert sae.encoder_rows.grad is not None and sae.encoder_rows.grad.any()


def test_the_gates_own_reconstruction_is_compared_as_the_models_is():
    sae = gated_with_own_magnitudes(reconstruction="pkl", decoder="mlp", d_hidden=9)
    x = inputs()
    gate = sae.pre_activations(x).relu()
    rates = sae.decode(gate)  # through the hidden layer and the softplus
    expected = (torch.xlogy(x, x) - torch.xlogy(x, rates) - x + rates).sum(dim=1).mean()
    assert sae(x)[2]["gated_auxiliary"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_gates_bias_in_the_input_still_learns_where_b_dec_is_subtracted():
    sae = gated_with_own_magnitudes()
    sae(inputs())[2]["gated_auxiliary"].backward()
    # Through the encoder alone: what the frozen decoder adds of it has no gradient.
    assert sae.b_dec.grad is not None
    grad_h = torch.autograd.grad(
        sae(inputs())[2]["gated_auxiliary"], sae.b_enc, retain_graph=False
    )[0]
    assert torch.allclose(sae.b_dec.grad, -(sae.W_enc @ grad_h), atol=1e-5)


# --- leaky_relu -------------------------------------------------------------------------


def test_leaky_relu_counts_only_positive_latents_everywhere():
    x = inputs(200, seed=3)
    config = SAEConfig(d_in=6, d_sae=20, architecture="leaky_relu", leak=0.1)
    train = TrainConfig(n_steps=1, batch_size=200, device="cpu", schedule="constant")
    sae = SAE(config)
    sae.fit_inputs(x)
    before = float((sae.pre_activations(x) > 0).sum(dim=1).double().mean())
    assert 0 < before < 20
    logged = Trainer(sae, train).step(x)
    assert float(logged["l0"]) == pytest.approx(before)
    run = fit(config, x, train, validation=x, progress=False)
    positive = (run.sae.pre_activations(x) > 0).double()
    assert run.card["l0"] == pytest.approx(float(positive.sum(dim=1).mean()))
    card = evaluate(run.sae, x)
    assert card.l0 == pytest.approx(run.card["l0"])
    assert card.density.tolist() == pytest.approx(positive.mean(dim=0).tolist())
    latents = run.sae.encode(x)
    h = run.sae.pre_activations(x)
    assert torch.allclose(latents, torch.where(h > 0, h, 0.1 * h))


# --- no dense [batch, d_sae, d_in] --------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation's result had."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return out


@pytest.mark.parametrize(
    "changes",
    [{}, {"prefixes": (64, 512)}, {"decoder": "mlp", "d_hidden": 64}, {"auxiliary": "auxk"}],
)
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_no_tensor_has_one_entry_per_example_latent_and_input(architecture, changes):
    config = SAEConfig(d_in=64, d_sae=512, architecture=architecture, **changes)
    x = inputs(128, 64)
    with LargestTensor() as largest:
        trainer = Trainer(SAE(config), TrainConfig(n_steps=10, device="cpu"))
        trainer.silent_examples.fill_(10**9)
        trainer.step(x)
    assert largest.numel <= 128 * 512  # of [batch, d_sae]; the product of all three is 64 times it


def test_the_largest_size_of_the_handbook_is_described_without_its_memory():
    config = SAEConfig(d_in=7168, d_sae=57344, prefixes=(7168, 28672, 57344), k=64)
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        sae = SAE(config)
        x = torch.empty(32, 7168)
        latents = sae.encode(x)
        assert latents.shape == (32, 57344)
        assert sae(x)[0].shape == x.shape


# --- files ------------------------------------------------------------------------------


def test_saving_replaces_a_folder_and_leaves_no_partial_one(tmp_path):
    save_sae(make("relu"), tmp_path / "sae")
    save_sae(make("topk"), tmp_path / "sae")
    assert load_sae(tmp_path / "sae").config.architecture == "topk"
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


def _break(path, what):
    cfg = path / "cfg.json"
    weights = path / "sae_weights.safetensors"
    content = json.loads(cfg.read_text())
    if what == "no weights":
        weights.unlink()
    elif what == "truncated":
        weights.write_bytes(weights.read_bytes()[:200])
    elif what == "not json":
        cfg.write_text("{")
    elif what == "foreign":
        cfg.write_text(json.dumps({"d_in": 6, "d_sae": 20}))
    elif what == "newer":
        cfg.write_text(json.dumps(content | {"format_version": 99}))
    elif what == "unknown setting":
        cfg.write_text(json.dumps(content | {"seq_length": 3}))
    elif what == "other shape":
        cfg.write_text(json.dumps(content | {"d_sae": 21}))
    elif what == "other architecture":
        cfg.write_text(json.dumps(content | {"architecture": "batchtopk"}))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("no weights", "no sae_weights.safetensors"),
        ("truncated", "damaged or truncated"),
        ("not json", "not valid JSON"),
        ("foreign", "architecture"),
        ("newer", "format version 99"),
        ("unknown setting", "seq_length"),
        ("other shape", "does not fit"),
        ("other architecture", "threshold: missing"),
    ],
)
def test_a_damaged_or_foreign_folder_is_named(what, says, tmp_path):
    path = save_sae(make("topk"), tmp_path / "sae")
    _break(path, what)
    with pytest.raises(CheckpointError, match=says):
        load_sae(path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        load_sae(tmp_path / "nowhere")
