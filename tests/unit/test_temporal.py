"""Temporal terms: against loops written here, on every architecture and engine, resumed exactly."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from saebook import losses
from saebook.data.store import Batch, ExampleStore, StoreWriter
from saebook.errors import CheckpointError, ConfigError, DataError
from saebook.models import SAE, SAEConfig
from saebook.training import TemporalConfig, TrainConfig, Trainer, fit, fit_many
from saebook.training.distributed import Processes
from saebook.training.temporal import contrasting
from saebook.training.temporal.base import PairedLatents
from saebook.training.temporal.queue import Queue

D_IN, D_SAE, N = 6, 24, 20
AT_ONCE: dict[str, Any] = {"start_fraction": 0.0, "ramp_fraction": 0.0}
CONTRASTIVE = TemporalConfig(queue_size=50, prefix_fraction=0.4, **AT_ONCE)
TERMS = {
    "contrastive": CONTRASTIVE,
    "tsae": TemporalConfig("tsae", prefix_fraction=0.4, **AT_ONCE),
    "smoothness": TemporalConfig("smoothness", prefix_fraction=0.4, **AT_ONCE),
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "relu": {"architecture": "relu", "sparsity_coefficient": 0.1},
    "leaky_relu": {"architecture": "leaky_relu", "sparsity_coefficient": 0.1},
    "gated": {"architecture": "gated", "sparsity_coefficient": 0.1},
    "jumprelu": {"architecture": "jumprelu", "target_l0": 4.0, "bandwidth": 0.5},
    "topk": {"architecture": "topk", "k": 4},
    "batchtopk": {"architecture": "batchtopk", "k": 4},
    "nested": {"architecture": "batchtopk", "k": 4, "prefixes": (10, 24)},
    "nested with k": {"architecture": "topk", "prefixes": (10, 24), "prefix_k": (2, 4)},
}


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sparse_rows(n: int, width: int, seed: int, active: float = 0.2) -> torch.Tensor:
    kept = torch.rand(n, width, generator=torch.Generator().manual_seed(seed)) < active
    return rand(n, width, seed=seed + 1).abs() * kept


def batch_of(seed: int) -> Batch:
    group = torch.arange(N) // 3 + 4 * seed
    paired = torch.arange(N) != 7
    x = rand(N, D_IN, seed=seed)
    positive = torch.where(paired[:, None], x + 0.5 * rand(N, D_IN, seed=seed + 50), x)
    return Batch(x, positive, group=group, paired=paired)


def trainer_of(settings: dict[str, Any], temporal: TemporalConfig | None, **train) -> Trainer:
    sae = SAE(SAEConfig(d_in=D_IN, d_sae=D_SAE, **settings), seed=1).double()
    chosen: dict[str, Any] = {"n_steps": 100, "device": "cpu", "clip_norm": None, "retire_at": None}
    chosen |= {"selection_warmup_fraction": 0.0, "sparsity_ramp_fraction": 0.0}
    return Trainer(sae, TrainConfig(**chosen | train, temporal=temporal))


def naive_info_nce(anchors, keys, paired, group, queue, tau):
    """Equation by equation; queue is a list of (unit row, group)."""

    def unit(row):
        return row / row.norm()

    terms = []
    for i in range(len(anchors)):
        if not paired[i] or not anchors[i].any() or not keys[i].any():
            continue
        h = unit(anchors[i])
        own = (h @ unit(keys[i]) / tau).exp()
        others = [(unit(keys[j]), group[j]) for j in range(len(keys)) if keys[j].any()]
        total = own
        for row, of in others + [known for known in queue if known[0].any()]:
            if int(of) != int(group[i]):
                total = total + (h @ row / tau).exp()
        terms.append(-(own / total).log())
    return torch.stack(terms).mean()


def test_whole_steps_are_those_of_a_naive_implementation():
    """Gradients of four steps, in which the queue is empty, fills, and wraps round."""
    settings = {"architecture": "topk", "k": 4, "decoder_norm": "free", "input_scaling": "none"}
    trainer = trainer_of(settings, dataclasses.replace(CONTRASTIVE, coefficient=3.0))
    trainer.sae.fit_inputs(batch_of(0).x)
    trainer = Trainer(trainer.sae, trainer.config)
    queue: list = []
    for step in range(4):
        batch = batch_of(step)
        assert batch.group is not None
        own = {n: p.detach().clone().requires_grad_() for n, p in trainer.sae.named_parameters()}
        found = trainer.step(batch)

        def encode(x, own=own):
            h = (x - own["b_dec"]) @ own["encoder_rows"].T + own["b_enc"]
            values, places = h.relu().topk(4)
            return torch.zeros_like(h).scatter(1, places, values)

        anchors, keys = encode(batch.x), encode(batch.positive)
        mse = (batch.x - anchors @ own["W_dec"] - own["b_dec"]).square().sum(dim=1).mean()
        term = naive_info_nce(anchors[:, :10], keys[:, :10], batch.paired, batch.group, queue, 0.1)
        (mse + 3.0 * term).backward()
        assert found["auxk"].item() == 0.0
        assert found["contrastive"].item() == pytest.approx(term.item(), rel=1e-10)
        assert found["total"].item() == pytest.approx((mse + 3.0 * term).item(), rel=1e-10)
        for name, parameter in trainer.sae.named_parameters():
            torch.testing.assert_close(parameter.grad, own[name].grad, rtol=1e-9, atol=1e-11)
        rows = torch.nn.functional.normalize(keys[:, :10].detach())
        queue = [*queue, *zip(rows, batch.group.tolist())][-50:]


@pytest.mark.parametrize("kind", TERMS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_engines_agree(name, kind):
    """All three, three steps long; JumpReLU's threshold hears of latents that are just zero."""
    engines = ["dense", "lean"] + ["sparse"] * (name != "leaky_relu")
    settings, found = ARCHITECTURES[name] | {"auxiliary": "none"}, {}
    for engine in engines:
        trainer = trainer_of(settings, TERMS[kind], engine=engine, optimizer="sgd")
        steps = [trainer.step(batch_of(step)) for step in range(3)]
        found[engine] = steps, [p.detach().clone() for p in trainer.sae.parameters()]
    first, weights = found["dense"]
    assert first[0][kind].item() != 0.0
    for engine in engines[1:]:
        others, other_weights = found[engine]
        for one, other in zip(first, others, strict=True):
            assert one.keys() == other.keys()
            for term in one:
                torch.testing.assert_close(one[term], other[term], rtol=1e-9, atol=1e-9)
        for one, other in zip(weights, other_weights, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("active", [0.05, 0.3, 1.0])
def test_the_compiled_term_is_the_plain_one(seed, active):
    """Values, counts and gradients at every entry, also those that are zero."""
    n, width = 30, 20
    rows = [sparse_rows(n, width, seed + i, active) for i in (0, 10)]
    rows[1][3], rows[0][5] = 0.0, 0.0
    if seed % 2:
        rows = [x * rand(n, width, seed=99).sign() for x in rows]  # cosines below zero too
    queue = Queue(70, width, rows[0])

    def few(latents, queue, temperature):
        made = contrasting.from_active(latents, queue, temperature, most=math.inf)
        assert made is not None
        return made

    group = torch.randint(6, (60,), generator=torch.Generator().manual_seed(seed))
    queue.add(torch.nn.functional.normalize(sparse_rows(60, width, seed + 20, active)), group)
    paired = torch.arange(n) % 9 != 0
    found = []
    for way in (contrasting.plain, few):
        leaves = [x.clone().requires_grad_() for x in rows]
        made = way(PairedLatents(leaves[0], leaves[1], paired, group[:n]), queue, 0.1)
        made.term.backward()
        found.append((made, [x.grad for x in leaves]))
    (plain, gradients), (few, others) = found
    assert plain.term.item() == pytest.approx(few.term.item(), rel=1e-12)
    assert plain.n_negatives.tolist() == few.n_negatives.tolist()
    assert plain.n_excluded.tolist() == few.n_excluded.tolist()
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_where_many_latents_are_active_every_cosine_is_computed():
    x = rand(8, 5)
    latents = PairedLatents(x, x, torch.ones(8, dtype=torch.bool), torch.arange(8))
    assert contrasting.from_active(latents, Queue(4, 5, x), 0.1) is None


@pytest.mark.parametrize("way", [contrasting.plain, contrasting.from_active])
def test_gradients_agree_with_finite_differences(way):
    queue, paired = Queue(9, 5, rand(1)), torch.arange(6) != 2
    queue.add(torch.nn.functional.normalize(rand(9, 5, seed=3)), torch.arange(9) % 4)

    def term(anchors, positives):
        latents = PairedLatents(anchors, positives, paired, torch.arange(6) // 2)
        more = {} if way is contrasting.plain else {"most": math.inf}
        return way(latents, queue, 0.5, **more).term

    assert gradcheck(term, [rand(6, 5, seed=s).requires_grad_() for s in (1, 2)])


@pytest.mark.parametrize("term", [losses.paired_cross_entropy, losses.smoothness])
def test_the_other_terms_have_right_gradients_and_leave_out_what_is_unpaired(term):
    a, p, valid = rand(6, 4), rand(6, 4, seed=1), torch.arange(6) != 4
    assert gradcheck(
        lambda *rows: term(*rows, valid=valid), (a.requires_grad_(), p.requires_grad_())
    )
    assert term(a, p, valid=valid).item() == pytest.approx(term(a[valid], p[valid]).item())
    none = torch.zeros(6, dtype=torch.bool)
    assert term(a, p, valid=none).item() == 0.0


def test_alike_latents_give_the_value_of_chance():
    """Every cosine is 1: the term is ln(1 + N), whatever the temperature."""
    x = rand(12, 4)[:1].abs().expand(12, 4)
    queue = Queue(30, 4, x)
    queue.add(torch.nn.functional.normalize(x), torch.arange(12) + 100)
    latents = PairedLatents(x, 2 * x, torch.ones(12, dtype=torch.bool), torch.arange(12) // 2)
    for way in (contrasting.plain, lambda *given: contrasting.from_active(*given, most=9.0)):
        found = way(latents, queue, 0.1)
        assert found is not None
        assert found.n_negatives.tolist() == [22] * 12  # 10 of the batch, 12 of the queue
        assert found.n_excluded.tolist() == [1] * 12
        assert found.term.item() == pytest.approx(math.log(23))


def test_the_queue_overwrites_its_oldest_rows_and_knows_their_age():
    queue = Queue(5, 1, torch.zeros(1))
    assert queue.mean_age().item() == 0.0
    for step in range(3):
        queue.add(torch.full((2, 1), float(step)), torch.tensor([step, step]))
    assert queue.rows.flatten().tolist() == [2, 0, 1, 1, 2]
    assert queue.group.tolist() == [2, 0, 1, 1, 2] and queue.step.tolist() == [2, 0, 1, 1, 2]
    assert queue.mean_age().item() == pytest.approx((0 + 2 + 1 + 1 + 0) / 5)
    queue.add(torch.arange(8.0)[:, None], torch.arange(8))  # more than it holds: the newest
    assert sorted(queue.group.tolist()) == [3, 4, 5, 6, 7]
    with pytest.raises(CheckpointError, match="queue_size or prefix_fraction differ"):
        Queue(4, 1, torch.zeros(1)).load_state_dict(queue.state_dict())


@pytest.mark.parametrize("name", ["topk", "relu"])
def test_a_resumed_trainer_goes_on_exactly(name):
    one, other = (trainer_of(ARCHITECTURES[name], CONTRASTIVE) for _ in range(2))
    for step in range(4):
        one.step(batch_of(step))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for step in range(4, 7):
        ones, others = one.step(batch_of(step)), other.step(batch_of(step))
        assert {n: v.item() for n, v in ones.items()} == {n: v.item() for n, v in others.items()}
    for p, q in zip(one.sae.parameters(), other.sae.parameters(), strict=True):
        assert p.equal(q)


def test_a_fit_that_was_stopped_has_the_numbers_of_one_that_was_not(tmp_path):
    x, groups = rand(300, D_IN).float(), torch.arange(300) // 10
    term = TemporalConfig(window=3, queue_size=64, ramp_fraction=0.2)
    config, train = (
        SAEConfig(d_in=D_IN, d_sae=D_SAE, k=3),
        TrainConfig(n_steps=30, batch_size=32, n_logs=30, temporal=term, device="cpu"),
    )
    whole = fit(config, x, train, groups=groups, progress=False)

    def stop(trainer):
        if trainer.step_number == 17:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        fit(config, x, train, groups=groups, out=tmp_path, probe=stop, progress=False)
    again = fit(config, x, train, groups=groups, out=tmp_path, progress=False)
    assert again.history.equals(whole.history)
    other = dataclasses.replace(train, temporal=dataclasses.replace(term, window=4))
    with pytest.raises(CheckpointError, match=r"train\.temporal\.window = 3 there, 4 here"):
        fit(config, x, other, groups=groups, out=tmp_path, progress=False)
    with pytest.raises(CheckpointError, match=r"data\.pairs"):
        fit(config, x, train, groups=groups // 2, out=tmp_path, progress=False)


def test_stacked_members_are_as_they_are_alone():
    x, groups = rand(300, D_IN).float(), torch.arange(300) // 10
    term = TemporalConfig(window=3, queue_size=64, ramp_fraction=0.2)
    train = TrainConfig(n_steps=25, batch_size=32, temporal=term, device="cpu")
    members = [
        (SAEConfig(d_in=D_IN, d_sae=D_SAE, architecture="topk", k=k), train, s)
        for s, k in enumerate((2, 4))
    ]
    stacked = fit_many(members, x, groups=groups, progress=False)
    for (config, _, seed), run in zip(members, stacked, strict=True):
        alone = fit(config, x, train, seed=seed, order_seed=0, groups=groups, progress=False)
        ours, theirs = run.history["contrastive"], alone.history["contrastive"]
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
        waited = [int(np.isnan(each.to_numpy()).sum()) for each in (ours, theirs)]
        assert waited[0] == waited[1] > 0  # before the ramp began


def test_l0_error_and_firing_are_of_the_anchors_alone():
    one, other = (trainer_of(ARCHITECTURES["topk"], CONTRASTIVE) for _ in range(2))
    batch = batch_of(0)
    plain = trainer_of(ARCHITECTURES["topk"], None).step(batch)
    assert batch.positive is not None
    moved = one.step(batch), other.step(dataclasses.replace(batch, positive=9 * batch.positive))
    for name in ("l0", "fvu", "mse", "dead", "worst_example"):
        assert moved[0][name].item() == moved[1][name].item() == pytest.approx(plain[name].item())
    assert moved[0]["contrastive"].item() != moved[1]["contrastive"].item()
    assert other.silent_examples.equal(one.silent_examples)


def test_what_is_logged_beside_the_term():
    trainer = trainer_of(ARCHITECTURES["topk"], CONTRASTIVE)
    trainer.step(batch_of(0))
    found = trainer.step(batch_of(0))  # the queue then has the batch's own sequences
    assert found["temporal_unpaired"].item() == pytest.approx(1 / N)
    assert found["temporal_queue_age"].item() == 0.0
    assert found["temporal_coefficient"].item() == 1.0
    assert found["temporal_false_negatives"].item() > 3
    assert 0 <= found["temporal_silent"].item() < 1
    assert found["temporal_over_chance"].item() == pytest.approx(
        found["contrastive"].item() / math.log(40), rel=0.3
    )


def test_the_coefficient_rises_once_the_sparsity_coefficient_has():
    term = TemporalConfig(queue_size=50, coefficient=2.0, ramp_fraction=0.2)
    trainer = trainer_of(ARCHITECTURES["relu"], term, sparsity_ramp_fraction=0.3)
    weights = []
    for step in range(60):
        trainer.step_number = step
        weights.append(trainer.coefficients().get("contrastive", 0.0))
    assert not any(weights[:31]) and weights[35] == pytest.approx(0.5)
    assert weights[40] == pytest.approx(1.0) and weights[50:] == pytest.approx([2.0] * 10)
    trainer.step_number = 0
    assert "contrastive" not in trainer.step(rand(N, D_IN))  # no positives are asked for yet
    trainer.step_number = 40
    with pytest.raises(DataError, match="a batch without positives"):
        trainer.step(rand(N, D_IN))


def test_without_a_term_nothing_is_logged_of_one():
    found = trainer_of(ARCHITECTURES["topk"], None).step(batch_of(0))
    assert not [name for name in found if "temporal" in name or name in TERMS]


@pytest.mark.parametrize("kind", TERMS)
def test_settings_survive_json(kind):
    train = TrainConfig(n_steps=5, temporal=TERMS[kind])
    assert TrainConfig.from_dict(json.loads(json.dumps(train.to_dict()))) == train
    assert TrainConfig.from_dict(TrainConfig().to_dict()).temporal is None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TemporalConfig("contrast"), "did you mean 'contrastive'"),
        (lambda: TemporalConfig(window=0), "window = 0: it must be greater than 0"),
        (lambda: TemporalConfig.from_dict({"window": 2.5}), "it must be a whole number"),
        (lambda: TemporalConfig(temperature=-1.0), "temperature = -1.0"),
        (lambda: TemporalConfig(coefficient=-1.0), "can't be negative"),
        (lambda: TemporalConfig(prefix_fraction=0.0), r"prefix_fraction = 0.0: it must be in"),
        (lambda: TemporalConfig("tsae", temperature=1.0), "belongs to kind='contrastive'"),
        (lambda: TemporalConfig(similarity="dot"), "belongs to kind='tsae'"),
        (lambda: TemporalConfig("tsae", similarity="dots"), "did you mean 'dot'"),
        (lambda: TemporalConfig(start_fraction=1.0), "leaves some of it"),
        (lambda: TrainConfig.from_dict({"temporal": "contrastive"}), "it must be a TemporalConfig"),
        (
            lambda: TrainConfig(temporal=TemporalConfig(start_fraction=0.95)),
            "would not reach its full coefficient",
        ),
        (lambda: TrainConfig.from_dict({"temporal": {"windw": 3}}), "did you mean 'window'"),
    ],
)
def test_contradictory_settings_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def store_of(path, lengths, splits="train") -> ExampleStore:
    with StoreWriter(path, kind="activations") as writer:
        for i, length in enumerate(lengths):
            writer.add(
                rand(length, D_IN, seed=i).float(), session="a", trial=i, split=splits, time=None
            )
    return ExampleStore.open(path)


def test_data_without_pairs_or_negatives_are_refused(tmp_path):
    config, train = SAEConfig(d_in=D_IN, d_sae=D_SAE, k=3), TrainConfig(temporal=CONTRASTIVE)
    x = rand(40, D_IN).float()
    for groups, says in (
        (None, "give groups"),
        (torch.arange(40), "none of 40 training examples has another"),
        (torch.zeros(40, dtype=torch.int64), "all 40 training examples are of one sequence"),
        (torch.zeros(39, dtype=torch.int64), "pairs of 39 examples"),
    ):
        with pytest.raises(DataError, match=says):
            fit(config, x, train, groups=groups, progress=False)
    store = store_of(tmp_path / "store", [20, 20])
    with pytest.raises(DataError, match="beside a store"):
        fit(config, store, train, groups=torch.zeros(40), progress=False)


@pytest.mark.parametrize("seq_len", [1, 3])
def test_a_store_brings_its_own_pairs_from_memory_and_from_disk(tmp_path, seq_len):
    store = store_of(tmp_path / "store", [12, 1, 9, 30, 12])
    term = TemporalConfig(window=3, queue_size=64, **AT_ONCE)
    runs = []
    for resident_gb in (None, 2e-5):
        train = TrainConfig(
            n_steps=12, batch_size=16, temporal=term, resident_gb=resident_gb, n_logs=12
        )
        config = SAEConfig(d_in=D_IN, d_sae=D_SAE, k=3, seq_len=seq_len)
        runs.append(fit(config, store, train, progress=False))
    for run in runs:
        assert run.history["contrastive"].notna().all()
        alone = run.history["temporal_unpaired"]
        assert alone.max() == pytest.approx(1 / 16 if seq_len == 1 else 0.0)


def test_several_processes_are_refused():
    class Two(Processes):
        size = 2

    sae = SAE(SAEConfig(d_in=D_IN, d_sae=D_SAE, k=3))
    with pytest.raises(ConfigError, match="temporal with 2 processes"):
        Trainer(sae, TrainConfig(n_steps=5, device="cpu", temporal=CONTRASTIVE), processes=Two())


def test_the_queue_follows_its_active_entries():
    """From addition to addition, whatever their sizes, as if all rows were looked through."""
    followed, width = Queue(17, 6, rand(1)), 6
    followed.active()
    for seed, n in enumerate((5, 9, 20, 4, 4, 17, 1)):
        followed.add(sparse_rows(n, width, seed), torch.arange(n) + 100 * seed)
        fresh = Queue(17, width, rand(1))
        fresh.load_state_dict(followed.state_dict())
        (ours, ours_of), (theirs, theirs_of) = followed.active(), fresh.active()
        assert ours_of.tolist() == theirs_of.tolist()
        joined = [type(parts[0]).joined(parts) for parts in (ours, theirs)]
        for one, other in zip(joined[0].parts, joined[1].parts, strict=True):
            assert one.tolist() == other.tolist()
        assert len(joined[0]) == len(ours_of) == min(17, (5, 14, 17, 17, 17, 17, 17)[seed])
