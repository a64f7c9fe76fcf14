"""Passes over the few latents that are not zero: the values and gradients of the plain pass."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saebook.errors import ConfigError
from saebook.models import SAE, SAEConfig
from saebook.models.sparse import SelectAmongFew, select_among_many
from saebook.models.sparse.search import Above, Encoder, LargestOfBatch, LargestOfRows
from saebook.training import TrainConfig, Trainer
from saebook.training.engines.choosing import choose_engine
from saebook.training.retirement import contributions

PREFIXES = (16, 32, 96)
CASES = {
    "topk": {"architecture": "topk", "k": 5},
    "batchtopk": {"k": 5},
    "relu": {"architecture": "relu"},
    "relu, l1": {"architecture": "relu", "sparsity": "l1"},
    "relu, tanh": {"architecture": "relu", "sparsity": "tanh"},
    "jumprelu": {"architecture": "jumprelu", "target_l0": 5.0},
    "jumprelu, step": {"architecture": "jumprelu", "target_l0": 4.0, "sparsity": "l0_step"},
    "jumprelu, tanh": {"architecture": "jumprelu", "sparsity": "tanh"},
    "gated": {"architecture": "gated"},
    "nested": {"architecture": "topk", "k": 5, "prefixes": PREFIXES},
    "nested batch": {"k": 5, "prefixes": PREFIXES, "prefix_weights": (3.0, 2.0, 1.0)},
    "nested, own k": {"architecture": "topk", "prefixes": PREFIXES, "prefix_k": (2, 3, 5)},
    "nested batch, own k": {"prefixes": PREFIXES, "prefix_k": (2, 3, 5)},
    "nested relu": {
        "architecture": "relu",
        "prefixes": PREFIXES,
        "prefix_sparsity": (3.0, 2.0, 1.0),
    },
    "nested jumprelu": {"architecture": "jumprelu", "target_l0": 5.0, "prefixes": PREFIXES},
    "nested gated": {"architecture": "gated", "prefixes": PREFIXES},
    "mlp decoder": {"k": 5, "decoder": "mlp", "d_hidden": 40},
    "free decoder": {"k": 5, "decoder_norm": "free"},
    "input as it is": {"k": 5, "apply_b_dec_to_input": False},
    "counts": {"k": 5, "reconstruction": "lmse", "input_scaling": "sqrt"},
    "layer norm": {"k": 5, "input_scaling": "layer_norm"},
    "last of a window": {"k": 5, "seq_len": 3},
    "all of a window": {"k": 5, "seq_len": 3, "target": "all"},
}


def examples(n: int = 300, seq_len: int = 1, seed: int = 0) -> Tensor:
    """Nonnegative, so that every kind of model takes them."""
    shape = (n, 24) if seq_len == 1 else (n, seq_len, 24)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 3


def make(case: str, dtype: torch.dtype) -> tuple[SAE, Tensor]:
    config = SAEConfig(d_in=24, d_sae=96, **CASES[case])
    x = examples(seq_len=config.seq_len)
    sae = SAE(config, seed=1)
    sae.fit_inputs(x)
    return sae.to(dtype).train(), x.to(dtype)


def terms_and_gradients(sae: SAE, x: Tensor, *selecting) -> tuple[dict, dict]:
    sae.zero_grad()
    terms = sae.losses(sae.pass_through(x, None, *selecting))
    torch.stack(list(terms.values())).sum().backward()
    parameters = dict(sae.named_parameters())
    return terms, {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("selecting", [SelectAmongFew(), select_among_many], ids=["few", "many"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_plain_pass(case, selecting, dtype, error):
    sae, x = make(case, dtype)
    terms, gradients = terms_and_gradients(sae, x)
    few_terms, few_gradients = terms_and_gradients(sae, x, selecting)
    assert set(few_gradients) == set(gradients)
    for name, term in terms.items():
        # The squared distance to a target L0 may be a difference of nearly equal numbers.
        close = pytest.approx(term.item(), rel=error, abs=1e-4 * error)
        assert few_terms[name].item() == close, name
    for name, gradient in gradients.items():
        assert few_gradients[name].stride() == gradient.stride(), name
        assert (few_gradients[name] - gradient).norm() <= error * gradient.norm(), name


@pytest.mark.parametrize("engine", ["lean", "sparse"])
@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_are_those_of_the_plain_engine(case, engine):
    def trained(engine: str) -> tuple[SAE, list]:
        sae, x = make(case, torch.float64)
        config = TrainConfig(n_steps=50, device="cpu", engine=engine, clip_norm=0.5)
        trainer = Trainer(sae, config)
        logs = [trainer.step(x[i % 4 :: 4]) for i in range(50)]
        return sae, logs

    plain, plain_logs = trained("dense")
    sparse, sparse_logs = trained(engine)
    for a, b in zip(plain_logs, sparse_logs, strict=True):
        assert set(a) == set(b)
        assert all(b[n].item() == pytest.approx(a[n].item(), rel=1e-8, abs=1e-12) for n in a)
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, sparse.state_dict()[name], rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize("case", ["topk", "jumprelu", "nested", "nested batch, own k"])
def test_contributions_are_those_of_the_plain_pass(case):
    sae, x = make(case, torch.float64)
    plain = contributions(sae, sae.pass_through(x))
    few = contributions(sae, sae.pass_through(x, None, SelectAmongFew()))
    assert torch.allclose(plain, few, rtol=1e-10)


def test_dead_latents_are_revived_alike():
    def trained(engine: str) -> tuple[SAE, float]:
        sae, x = make("topk", torch.float64)
        trainer = Trainer(sae, TrainConfig(n_steps=20, device="cpu", engine=engine))
        trainer.silent_examples[:40] = 10**6
        first = trainer.step(x)
        for _ in range(4):
            trainer.step(x)
        return sae, float(first["auxk"])

    (plain, a), (sparse, b) = trained("dense"), trained("sparse")
    assert a == pytest.approx(b, rel=1e-10)
    assert a > 0
    assert torch.allclose(plain.encoder_rows, sparse.encoder_rows, rtol=1e-8, atol=1e-12)


# --- the search ---------------------------------------------------------------------------


def matrix(h: np.ndarray, wanted) -> np.ndarray:
    """What a search finds in given pre-activations, as a matrix."""
    weights = torch.eye(h.shape[1], dtype=torch.float64)
    x = torch.from_numpy(h)
    ((values, pattern),) = Encoder().search(x, weights, weights.new_zeros(len(weights)), [wanted])
    rows = np.repeat(np.arange(len(h)), np.diff(pattern.starts))
    found = np.zeros_like(h)
    found[rows, pattern.columns] = values.numpy()
    assert len(set(zip(rows, pattern.columns, strict=True))) == len(rows)
    return found


shapes = st.tuples(st.integers(1, 40), st.integers(1, 150), st.integers(1, 30))


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1), st.booleans())
def test_the_largest_of_each_row_are_found(shape, seed, ties):
    n, d, k = shape
    rng = np.random.default_rng(seed)
    h = rng.normal(rng.normal(), 1.0, (n, d))
    h = np.round(h) if ties else h
    found = matrix(h, LargestOfRows(k, d))
    expected = np.sort(np.maximum(h, 0.0), axis=1)[:, ::-1][:, : min(k, d)]
    assert np.array_equal(np.sort(found, axis=1)[:, ::-1][:, : min(k, d)], expected)
    assert ((found == 0) | (found == h)).all()


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([None, 0.0, 0.1, 50.0]))
def test_the_largest_of_a_batch_are_found_whatever_is_guessed(shape, seed, ties, guess):
    n, d, k = shape
    rng = np.random.default_rng(seed)
    h = rng.normal(rng.normal(), 1.0, (n, d))
    h = np.round(h) if ties else h
    wanted = LargestOfBatch(k, d)
    wanted.guess = guess
    for _ in range(2):  # the second time with its own guess
        found = matrix(h, wanted)
        expected = np.sort(np.maximum(h, 0.0), axis=None)[::-1][: min(k, d) * n]
        assert np.array_equal(np.sort(found, axis=None)[::-1][: len(expected)], expected)
        assert ((found == 0) | (found == h)).all()


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1))
def test_everything_above_the_floors_is_found(shape, seed):
    n, d, _ = shape
    rng = np.random.default_rng(seed)
    h, floor = rng.normal(size=(n, d)), rng.normal(size=d)
    assert np.array_equal(matrix(h, Above(floor, d)), np.where(h > floor, h, 0.0))


def test_only_the_first_latents_of_a_prefix_compete():
    h = np.random.default_rng(0).normal(size=(7, 50))
    for wanted in (LargestOfRows(3, 20), LargestOfBatch(3, 20), Above(np.zeros(50), 20)):
        assert not matrix(h, wanted)[:, 20:].any()


@pytest.mark.parametrize("case", ["topk", "batchtopk", "relu", "jumprelu", "gated"])
def test_batches_without_an_active_latent_have_gradients_all_the_same(case):
    sae, x = make(case, torch.float64)
    with torch.no_grad():
        sae.encoder_rows.zero_()
        sae.b_enc.fill_(-1.0)
    terms, gradients = terms_and_gradients(sae, x, SelectAmongFew())
    plain_terms, plain = terms_and_gradients(sae, x)
    assert terms[sae.config.objective.reconstruction].item() == pytest.approx(
        plain_terms[sae.config.objective.reconstruction].item()
    )
    assert torch.allclose(gradients["b_dec"], plain["b_dec"])
    assert not gradients["W_dec"].any()


@pytest.mark.parametrize("case", ["topk", "batchtopk", "relu", "jumprelu"])
def test_inputs_that_are_not_finite_show_in_the_losses(case):
    sae, x = make(case, torch.float32)
    x[3, 5] = float("nan")
    terms, _ = terms_and_gradients(sae, x, SelectAmongFew())
    assert not np.isfinite(terms["mse"].item())


# --- the choice ---------------------------------------------------------------------------


def test_the_engine_is_chosen_by_density_and_size():
    large = torch.zeros(512, 64)
    topk = SAE(SAEConfig(d_in=64, d_sae=1024, architecture="topk", k=8))
    relu = SAE(SAEConfig(d_in=64, d_sae=1024, architecture="relu"))
    leaky = SAE(SAEConfig(d_in=64, d_sae=1024, architecture="leaky_relu"))
    ghost = SAE(SAEConfig(d_in=64, d_sae=1024, architecture="topk", k=8, auxiliary="ghost"))
    assert choose_engine(topk, large, 1.0) == "sparse"
    assert choose_engine(topk, large[:2], 1.0) == "dense"
    assert choose_engine(relu, large, 1.0) == "lean"
    assert choose_engine(relu, large, 0.01) == "sparse"
    assert choose_engine(leaky, large, 0.01) == "lean"
    assert choose_engine(ghost, large, 0.01) == "dense"
    assert choose_engine(topk, torch.zeros(4, 512, 64), 1.0) == "dense"
    assert choose_engine(topk, large.to("meta"), 1.0) == "dense"


def test_a_model_that_encodes_in_its_own_way_is_left_to_the_plain_engine():
    class Doubled(SAE):
        def encode_scaled(self, x_scaled, latents=slice(None)):
            return 2 * super().encode_scaled(x_scaled, latents)

    own = Doubled(SAEConfig(d_in=64, d_sae=1024, architecture="topk", k=8))
    assert choose_engine(own, torch.zeros(512, 64), 1.0) == "dense"


def test_a_penalised_model_changes_engine_once_it_is_sparse_and_resumes_where_it_was():
    def make_trainer() -> Trainer:
        config = SAEConfig(d_in=64, d_sae=1024, architecture="relu", sparsity_coefficient=40.0)
        train = TrainConfig(n_steps=60, device="cpu", learning_rate=1e-2)
        return Trainer(SAE(config), train)

    x = torch.rand(256, 64, generator=torch.Generator().manual_seed(0))
    trainer = make_trainer()
    used = set()
    for _ in range(30):
        losses = trainer.step(x)
        used.update(trainer.engine.names)
    assert used == {"lean", "sparse"}
    assert losses["l0"] < 0.1 * 1024
    resumed = make_trainer()
    resumed.load_state_dict(copy.deepcopy(trainer.state_dict()))
    for _ in range(5):
        a, b = trainer.step(x), resumed.step(x)
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert resumed.engine.names == ["sparse"]


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_products_of_lower_precision_train_as_well(architecture):
    config = SAEConfig(d_in=64, d_sae=1024, architecture=architecture, k=8)
    x = torch.rand(512, 64, generator=torch.Generator().manual_seed(0))

    def trained(precision: str) -> tuple[Trainer, float]:
        train = TrainConfig(n_steps=60, device="cpu", learning_rate=5e-3, precision=precision)
        trainer = Trainer(SAE(config), train)
        for _ in range(60):
            losses = trainer.step(x)
        return trainer, float(losses["fvu"])

    (_, full), (trainer, lower) = trained("fp32"), trained("bf16")
    assert trainer.engine.names == ["sparse"]
    assert all(p.dtype == torch.float32 for p in trainer.sae.parameters())
    assert lower == pytest.approx(full, rel=0.05)
    assert lower != full


def test_an_unknown_engine_is_refused():
    with pytest.raises(ConfigError, match="engine"):
        TrainConfig(engine="turbo")


@pytest.mark.parametrize(
    ("engine", "train", "model", "message"),
    [
        ("sparse", {}, {"architecture": "leaky_relu"}, "never zero"),
        ("sparse", {}, {"architecture": "topk", "k": 4, "auxiliary": "ghost"}, "every pre-act"),
        ("lean", {"precision": "bf16"}, {"architecture": "relu"}, "fp32 alone"),
    ],
)
def test_an_engine_that_cannot_train_a_model_is_refused(engine, train, model, message):
    sae = SAE(SAEConfig(d_in=8, d_sae=32, **model))
    with pytest.raises(ConfigError, match=message):
        Trainer(sae, TrainConfig(n_steps=5, device="cpu", engine=engine, **train))
    Trainer(sae, TrainConfig(n_steps=5, device="cpu", **train))  # auto finds another way
