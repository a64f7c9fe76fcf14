"""Kernels for a GPU: what they select, and the values and gradients of the plain pass.

Without a GPU they run in Triton's interpreter, which is slow: hence the small sizes.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saebook.errors import ConfigError
from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, Trainer
from saebook.training.dead import Dead
from saebook.training.engines import choosing
from saebook.training.engines.choosing import choose_engine
from saebook.training.engines.stacked import AllAtOnce
from saebook.training.retirement import contributions
from saebook.training.stacking import SAEStack

pytest.importorskip("triton", reason="no kernels to prove: triton is not installed")

from saebook.models.sparse.gpu import largest as largest_of
from saebook.models.sparse.gpu import sums
from saebook.models.sparse.gpu.largest import LargestOf, Wanted
from saebook.models.sparse.gpu.searching import by_column
from saebook.models.sparse.gpu.selecting import SelectFused

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KERNELS_COMPILED = Path(__file__).parents[1] / "compiled_kernels.py"
D_IN, D_SAE, N = 6, 12, 3
# Gradients of weights entry by entry; and by products of full size.
ROUTES = {"entries": 0, "products": 2**60}


# --- selection ----------------------------------------------------------------------------


def chosen_as_matrix(
    h: Tensor, wanted: Wanted, ks: list[int] | None = None, bias: Tensor | None = None
) -> Tensor:
    """What a search finds in h [members, n, d], as matrices [members, n, d]."""
    ks = ks or [wanted.k] * len(h)
    search = LargestOf(h, bias, torch.tensor(ks, dtype=torch.int32, device=h.device), wanted)
    values, columns, rows, starts = search.of_rows() if wanted.by_row else search.of_batch()
    assert values.shape == (len(h), h.shape[1] * min(wanted.k, wanted.width))
    live = values != 0
    places = (rows.long() * h.shape[2] + columns)[live]
    member = torch.arange(len(h), device=h.device)[:, None].expand_as(live)[live]
    found = torch.zeros(len(h), h[0].numel(), dtype=values.dtype, device=h.device)
    found[member, places] = values[live]
    assert len(set(zip(member.tolist(), places.tolist(), strict=True))) == int(live.sum())
    within = (rows[..., None] == torch.arange(h.shape[1], device=h.device)) & live[..., None]
    counted = within.sum(dim=1)
    assert (counted <= starts.diff(dim=1)).all()
    # Rows in turn, and in each the columns.
    order = (rows.long() * h.shape[2] + columns).masked_fill(~live, 2**40)
    assert all((part[part < 2**40].diff() > 0).all() for part in order)
    return found.view(h.shape)


def largest(h: Tensor, k: int, wanted: Wanted) -> Tensor:
    """The k largest positive entries of each row or of the batch [n, d], the first among equals."""
    competing = torch.zeros_like(h)
    competing[:, : wanted.width] = h[:, : wanted.width].relu()
    flat = competing if wanted.by_row else competing.view(1, -1)
    k = min(k, wanted.width) * (1 if wanted.by_row else len(h))
    values, places = flat.sort(dim=1, descending=True, stable=True)
    return torch.zeros_like(flat).scatter(1, places[:, :k], values[:, :k]).view_as(h)


@pytest.mark.parametrize("by_row", [True, False], ids=["rows", "batch"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_the_largest_are_found_and_of_equals_the_first(by_row, data):
    n, d = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 90))
    # Of few entries in wide rows only some groups are looked at.
    d = data.draw(st.sampled_from([d, 300]))
    k, width = data.draw(st.integers(1, 8)), data.draw(st.integers(1, d))
    dtype = data.draw(st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32 - 1)))
    offset, step = data.draw(st.sampled_from([-3, -1, 0, 2])), data.draw(st.sampled_from([0, 1]))
    h = torch.randn(1, n, d, generator=generator, dtype=torch.float64) + offset
    h = (h.round() if step else h).to(dtype)
    wanted = Wanted(k, width, by_row)
    found = chosen_as_matrix(h.to(DEVICE), wanted)[0].cpu()
    assert torch.equal(found.double(), largest(h[0].double(), k, wanted))


@pytest.mark.parametrize("by_row", [True, False], ids=["rows", "batch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_members_have_their_own_k_and_bias(by_row, dtype):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(3, 2, 200, generator=generator).to(dtype)
    bias = torch.randn(3, 200, generator=generator)
    wanted, ks = Wanted(3, 150, by_row), [3, 1, 2]
    found = chosen_as_matrix(h.to(DEVICE), wanted, ks, bias.to(DEVICE)).cpu()
    for i, k in enumerate(ks):
        biased = (h[i].float() + bias[i]).to(dtype).float()
        assert torch.equal(found[i], largest(biased, k, wanted))


@pytest.mark.parametrize("by_row", [True, False], ids=["rows", "batch"])
def test_rows_too_long_for_a_program_are_looked_through_in_parts(by_row):
    h = torch.randn(2, 4200, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    # Crowded into few groups, of which more have to be looked at than one program holds.
    h[1, 1000:] -= 5.0
    h[1, 100:1000] = 1.5
    for k, rows in ((2, slice(0, 2)), (400, slice(1, 2))):
        wanted = Wanted(k, 4200, by_row)
        found = chosen_as_matrix(h[None, rows].to(DEVICE), wanted)[0].cpu()
        assert torch.equal(found, largest(h[rows], k, wanted))


@pytest.mark.parametrize("by_row", [True, False], ids=["rows", "batch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_is_not_a_number_is_chosen_whatever_its_sign(by_row, dtype):
    h = torch.rand(1, 2, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    h[0, 0, 3], h[0, 1, 5] = float("nan"), -float("nan")
    found = chosen_as_matrix(h.to(DEVICE), Wanted(2, 40, by_row))[0]
    assert found[0, 3].isnan() and found[1, 5].isnan()


def test_columns_are_brought_into_order_without_what_has_no_value():
    values = torch.tensor([[1.0, 2.0, 0.0, 3.0], [0.0, 0.0, 4.0, 5.0]], device=DEVICE)
    columns = torch.tensor([[2, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.int32, device=DEVICE)
    order, starts = by_column(values, columns, 3)
    assert order.tolist() == [[1, 3, 0, 2], [2, 3, 0, 1]]
    assert starts.tolist() == [[0, 2, 2, 3], [0, 0, 2, 2]]


# --- values and gradients -----------------------------------------------------------------

PREFIXES = (4, 8, 12)
CASES = {
    "topk": {"architecture": "topk", "k": 3},
    "batchtopk": {"k": 3},
    "nested": {"architecture": "topk", "k": 3, "prefixes": PREFIXES},
    "nested batch": {"k": 3, "prefixes": PREFIXES, "prefix_weights": (3.0, 2.0, 1.0)},
    "nested, own k": {"architecture": "topk", "prefixes": PREFIXES, "prefix_k": (1, 2, 3)},
    "nested batch, own k": {"prefixes": PREFIXES, "prefix_k": (1, 2, 3)},
    "fewer positive than k": {"architecture": "topk", "k": 10},
    "fewer positive in the batch": {"k": 10},
    "input as it is": {"architecture": "topk", "k": 3, "apply_b_dec_to_input": False},
    "transcoder": {"k": 3, "d_out": 4},
    "last of a window": {"architecture": "topk", "k": 3, "seq_len": 2},
    "mlp decoder": {"architecture": "topk", "k": 3, "decoder": "mlp", "d_hidden": 8},
    "layer norm": {"architecture": "topk", "k": 3, "input_scaling": "layer_norm"},
}


def examples(config: SAEConfig, seed: int = 0) -> Tensor:
    shape = (N, D_IN) if config.seq_len == 1 else (N, config.seq_len, D_IN)
    return 3 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def make(case: str, dtype: torch.dtype = torch.float32) -> tuple[SAE, Tensor, Tensor | None]:
    config = SAEConfig(d_in=D_IN, d_sae=D_SAE, **CASES[case])
    x = examples(config)
    target = None if config.d_out is None else x[:, : config.d_out].square()
    sae = SAE(config, seed=1)
    sae.fit_inputs(x, target)
    target = None if target is None else target.to(DEVICE, dtype)
    return sae.to(DEVICE, dtype).train(), x.to(DEVICE, dtype), target


def gradients_of(sae: SAE, total: Tensor) -> dict[str, Tensor]:
    sae.zero_grad()
    total.backward()
    return {n: p.grad.clone() for n, p in sae.named_parameters() if p.grad is not None}


def agree(some: dict[str, Tensor], others: dict[str, Tensor], error: float) -> None:
    assert set(some) == set(others)
    for name, value in some.items():
        assert others[name].stride() == value.stride(), name
        assert (others[name] - value).norm() <= error * value.norm(), name


@pytest.mark.parametrize(
    ("case", "route"),
    [(case, "entries") for case in CASES]
    + [(case, "products") for case in ("topk", "transcoder", "nested batch, own k")],
)
def test_values_and_gradients_are_those_of_the_plain_pass(case, route):
    sae, x, target = make(case)
    plain = sae.pass_through(x, target)
    fused = sae.pass_through(x, target, SelectFused(ROUTES[route]))
    terms, fused_terms = sae.losses(plain), sae.losses(fused)
    agree(terms, fused_terms, 1e-5)
    whole = fused.entries.prefix(fused.latents, D_SAE)
    assert torch.allclose(whole, plain.latents, rtol=1e-5)
    assert torch.equal(fused.selected[-1].firings(), plain.selected[-1].firings().float())
    expected = gradients_of(sae, torch.stack([*terms.values()]).sum())
    agree(expected, gradients_of(sae, torch.stack([*fused_terms.values()]).sum()), 1e-5)


@pytest.mark.parametrize("case", ["topk", "batchtopk"])
def test_in_double_precision_they_agree_to_its_digits_and_twice_the_same(case):
    sae, x, _ = make(case, torch.float64)
    expected = gradients_of(sae, sae.losses(sae.pass_through(x))["mse"])
    found = [
        gradients_of(sae, sae.losses(sae.pass_through(x, None, SelectFused(0)))["mse"])
        for _ in range(2)
    ]
    agree(expected, found[0], 1e-13)
    assert all(torch.equal(found[0][name], found[1][name]) for name in expected)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("case", ["topk", "batchtopk"])
def test_rows_without_a_positive_entry_have_gradients_all_the_same(case, route):
    sae, x, _ = make(case)
    with torch.no_grad():
        sae.b_enc.fill_(-100.0)
    fused = sae.pass_through(x, None, SelectFused(ROUTES[route]))
    assert not fused.latents.any()
    gradients = gradients_of(sae, sae.losses(fused)["mse"])
    expected = gradients_of(sae, sae.losses(sae.pass_through(x))["mse"])
    assert torch.allclose(gradients["b_dec"], expected["b_dec"])
    assert not gradients["W_dec"].any() and not gradients["encoder_rows"].any()


def test_inputs_that_are_not_finite_show_in_the_losses():
    sae, x, _ = make("batchtopk")
    x[1, 2] = float("nan")
    assert sae.losses(sae.pass_through(x, None, SelectFused()))["mse"].isnan()


def test_contributions_are_those_of_the_plain_pass():
    sae, x, _ = make("nested batch, own k")
    plain = contributions(sae, sae.pass_through(x))
    assert torch.allclose(contributions(sae, sae.pass_through(x, None, SelectFused(0))), plain)


@pytest.mark.parametrize("route", ROUTES)
def test_positives_compete_with_the_examples_and_go_no_further(route):
    sae, x, _ = make("batchtopk")
    positive = examples(sae.config, seed=1).to(DEVICE)

    def run(*selecting) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        forward = sae.pass_through(x, None, *selecting, positive=positive)
        assert forward.positives is not None
        parts = (forward.selected[-1], forward.positives)
        some, others = (part.entries.prefix(part.latents, 10) for part in parts)
        total = sae.losses(forward)["mse"] + (some * others.square()).sum()
        return some, others, gradients_of(sae, total)

    plain, fused = run(), run(SelectFused(ROUTES[route]))
    assert torch.allclose(plain[0], fused[0]) and torch.allclose(plain[1], fused[1])
    assert plain[1].any()
    agree(plain[2], fused[2], 1e-5)


def test_sums_of_columns_have_gradients():
    sae, x, _ = make("topk")
    forward = sae.pass_through(x, None, SelectFused(0))
    plain = sae.pass_through(x)
    expected = gradients_of(sae, plain.selected[-1].mean_latents().square().sum())
    found = gradients_of(sae, forward.selected[-1].mean_latents().square().sum())
    assert torch.allclose(found["encoder_rows"], expected["encoder_rows"], rtol=1e-5)


# --- stacks and runs ----------------------------------------------------------------------


@pytest.mark.parametrize(("ks", "route"), [((2, 3, 5), "entries"), ((3, 3, 3), "products")])
@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_a_stack_learns_as_by_the_plain_pass(architecture, ks, route):
    configs = [SAEConfig(d_in=D_IN, d_sae=D_SAE, architecture=architecture, k=k) for k in ks]
    x = examples(configs[0]).to(DEVICE, torch.float64)
    members = [SAE(config, seed=i).to(DEVICE, torch.float64) for i, config in enumerate(configs)]
    for member in members:
        member.fit_inputs(x)
    stack = SAEStack(members).train()
    mask = torch.zeros(3, D_SAE, dtype=torch.bool, device=DEVICE)
    mask[:, :4] = True
    measure = architecture == "topk"
    coefficients: dict[str, float | Tensor] = {"mse": 1.0, "auxk": 0.1}
    dead = Dead(mask, (4, 4, 4))

    def run(engine: AllAtOnce) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        result = engine(stack, x, None, coefficients, dead, measure)
        parameters = stack.stacked_parameters().items()
        gradients = {n: p.grad.clone() for n, p in parameters if p.grad is not None}
        found = {"l0": result.l0, "fired": result.fired.double()} | result.losses
        if measure:
            assert result.contributions is not None
            found["contributions"] = result.contributions
        return gradients, found

    plain = run(AllAtOnce())
    fused = run(AllAtOnce(SelectFused(ROUTES[route]).for_stack))
    for some, others in zip(plain, fused, strict=True):
        agree(some, others, 1e-12)


@pytest.mark.parametrize(
    ("architecture", "precision", "n_steps"),
    [("topk", "fp32", 20), ("batchtopk", "fp32", 20), ("batchtopk", "bf16", 5)],
)
def test_steps_are_those_of_the_plain_engine(architecture, precision, n_steps):
    def trained(engine: str) -> tuple[SAE, dict[str, Tensor]]:
        sae = SAE(SAEConfig(d_in=D_IN, d_sae=12, architecture=architecture, k=2), seed=0)
        config = TrainConfig(
            n_steps=n_steps,
            device=DEVICE.type,
            engine=engine,
            precision=precision,
            dead_after_firings=1.0,
        )
        trainer = Trainer(sae, config)
        x = examples(sae.config)[:2]
        for _ in range(n_steps):
            logged = trainer.step(x)
        assert trainer.engine.names == [engine]
        return sae, logged

    (plain, plain_logged), (fused, fused_logged) = trained("dense"), trained("fused")
    error = 1e-4 if precision == "fp32" else 0.05
    agree(plain_logged, fused_logged, error)
    for name, value in plain.state_dict().items():
        found = fused.state_dict()[name]
        assert found.dtype == value.dtype
        assert (found - value).double().norm() <= error * value.double().norm(), name


# --- the choice ---------------------------------------------------------------------------


def test_a_trainer_takes_a_stack_by_it():
    def trained(engine: str) -> Trainer:
        configs = [SAEConfig(d_in=D_IN, d_sae=D_SAE, k=k) for k in (2, 3)]
        members = [SAE(config, seed=config.k or 0) for config in configs]
        x = examples(configs[0]).to(DEVICE)
        for sae in members:
            sae.to(DEVICE).fit_inputs(x)
        train = TrainConfig(device=DEVICE.type, engine=engine, n_steps=4)
        trainer = Trainer(SAEStack(members), train)
        for _ in range(4):
            trainer.step(x)
        return trainer

    plain, fused = trained("dense"), trained("fused")
    assert fused.engine.names == ["fused", "fused"]
    for one, other in zip(plain.sae.parameters(), fused.sae.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_it_is_chosen_on_a_gpu_where_few_latents_known_in_number_are_active(monkeypatch):
    class OnGpu:
        """Stands for a batch there."""

        device, ndim = torch.device("cuda"), 2

        def __len__(self) -> int:
            return 512

    def chosen(**model) -> str:
        x: Any = OnGpu()
        return choose_engine(SAE(SAEConfig(d_in=64, d_sae=1024, **model)), x, 1.0)

    topk = {"architecture": "topk", "k": 8}
    assert chosen(**topk) == "fused"
    assert chosen(k=8) == "fused"
    assert chosen(architecture="topk", k=200) == "dense"
    assert chosen(architecture="relu") == "dense"
    assert chosen(**topk, auxiliary="ghost") == "dense"
    monkeypatch.setattr(choosing, "find_spec", lambda name: None)
    assert chosen(**topk) == "dense"


@pytest.mark.parametrize(
    ("architecture", "interpreted", "installed", "message"),
    [
        ("relu", True, True, "not known before"),
        ("topk", False, True, "the device is cpu"),
        ("topk", True, False, "triton is not installed"),
    ],
)
def test_it_is_refused_where_it_cannot_run(
    monkeypatch, architecture, interpreted, installed, message
):
    monkeypatch.setenv("TRITON_INTERPRET", str(int(interpreted)))
    if not installed:
        monkeypatch.setattr(choosing, "find_spec", lambda name: None)
    sae = SAE(SAEConfig(d_in=8, d_sae=32, architecture=architecture))
    with pytest.raises(ConfigError, match=message):
        Trainer(sae, TrainConfig(n_steps=5, device="cpu", engine="fused"))
    Trainer(sae, TrainConfig(n_steps=5, device="cpu"))  # auto finds another way


def test_what_needs_the_host_is_refused(monkeypatch):
    sae, x, _ = make("batchtopk")
    monkeypatch.setattr(sae, "shares", object())
    with pytest.raises(ConfigError, match="several processes"):
        sae.pass_through(x, None, SelectFused())
    relu = SAE(SAEConfig(d_in=D_IN, d_sae=D_SAE, architecture="relu"))
    with pytest.raises(ConfigError, match="latents of relu"):
        relu.pass_through(x.cpu(), None, SelectFused())


# --- the device ---------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("case", ["topk", "nested batch", "nested batch, own k"])
def test_nothing_is_read_back_to_the_host(monkeypatch, case, route):
    sae, x, _ = make(case)
    launched = []
    for module in (largest_of, sums):
        monkeypatch.setattr(module, "launch", lambda kernel, *_, **__: launched.append(kernel))
    # Tensors there have no values, so that reading one is an error; and autocast knows them not.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    sae, x = copy.deepcopy(sae).to("meta"), x.to("meta")
    forward = sae.pass_through(x, None, SelectFused(ROUTES[route]))
    forward.selected[-1].firings()
    gradients_of(sae, sae.losses(forward)["mse"])
    assert launched


def test_every_kernel_compiles_for_a_gpu_without_spilling():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(KERNELS_COMPILED)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len({name for name, *_ in lines}) == 12
    for name, stack, shared in lines:
        assert int(stack) == 0, f"{name} spills registers"
        assert int(shared) <= 227 * 1024, name
