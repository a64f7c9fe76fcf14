"""Unlearning: which latents are clamped, to what, and what that costs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from saebook.errors import ConfigError, DataError, SelectionError
from saebook.evaluation.readers import ALPHAS, N_FOLDS, Reader, ridge
from saebook.evaluation.unlearning import (
    Clamp,
    LatentEvidence,
    edited,
    evidence_from_rows,
    rank_to_forget,
    sizes,
)
from saebook.evaluation.unlearning_decoding import (
    decoding_damage,
    decoding_scores,
    evidence_from_tuning,
)
from saebook.evaluation.unlearning_language import evidence_from_texts, loss_damage
from saebook.evaluation.unlearning_sweep import (
    damage_front,
    matched_random,
    unlearning_score,
    unlearning_sweep,
)
from saebook.evaluation.variables import Variable
from saebook.language import Site, TokenBatch, read_activations
from saebook.models import SAE, SAEConfig

N, D = 1200, 6
TRAIN, VALIDATION, TEST = np.arange(600), np.arange(600, 900), np.arange(900, 1200)


class Axes:
    """One latent per input dimension, and a constant that no latent writes."""

    def __init__(self, constant: float = 0.0) -> None:
        self.W_dec = torch.eye(D, dtype=torch.float64)
        self.constant = constant

    def encode(self, x):
        return (x - self.constant).relu()

    def decode(self, latents):
        return latents @ self.W_dec


def stepped(values: np.ndarray, name: str, kind: str = "continuous") -> Variable:
    edges = np.linspace(values.min(), values.max() + 1e-9, 7)
    group = np.searchsorted(edges, values, "right") - 1
    return Variable(name, kind, values, group, (edges[:-1] + edges[1:]) / 2)


def world():
    """Latent 0 is variable "a", latent 1 is "b", and four others carry nothing."""
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(N, D)) * (rng.random((N, D)) < 0.6)
    return torch.from_numpy(x), [stepped(x[:, 0], "a"), stepped(x[:, 1], "b")]


def test_latents_are_ranked_as_the_published_procedure_ranks_them():
    rng = np.random.default_rng(1)
    forget, retain = rng.random(200), rng.random(200) * 0.02
    # The published lines, in NumPy.
    modified = forget.copy()
    modified[retain >= 0.01] = 0
    expected = modified.argsort()[::-1][: np.count_nonzero(modified)]
    assert rank_to_forget(forget, retain, 0.01).tolist() == expected.tolist()


def test_a_latent_at_the_threshold_is_dropped():
    assert rank_to_forget([0.5, 0.4], [0.01, 0.0099], 0.01).tolist() == [1]


@pytest.mark.parametrize("forget", [[np.nan, 1.0], [[1.0, 1.0]]])
def test_scores_that_cannot_be_ranked_are_refused(forget):
    with pytest.raises(DataError):
        rank_to_forget(forget, [0.0, 0.0], 0.01)


def test_frequencies_do_not_depend_on_the_batches():
    x, _ = world()
    whole = evidence_from_rows(Axes(), [x[:100]], [x[100:300]])
    parts = evidence_from_rows(Axes(), x[:100].split(7), x[100:300].split(64))
    assert np.array_equal(whole.forget, (x[:100] > 0).double().mean(0).numpy())
    assert np.array_equal(whole.retain, parts.retain)
    np.testing.assert_allclose(whole.size, parts.size, rtol=1e-12)
    with pytest.raises(SelectionError):
        evidence_from_rows(Axes(), [], [x])


def test_only_active_chosen_latents_change():
    latents = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 4.0]])
    before = latents.clone()
    assert Clamp((0, 1), (-7.0, 0.0))(latents).tolist() == [[-7.0, 0.0, 2.0], [0.0, 0.0, 4.0]]
    assert torch.equal(latents, before)


def test_the_error_stays_where_it_is_kept():
    x = torch.tensor([[3.0, 1.0, 0.5, 0.0, 0.0, 0.0]], dtype=torch.float64)
    sae = Axes(constant=0.75)  # latents 2.25, 0.25, 0, …: 0.75 of each input is left out
    clamp = Clamp((0, 2), (-1.0, -1.0))
    assert edited(sae, x, clamp).tolist() == [[-0.25, 1.0, 0.5, 0.0, 0.0, 0.0]]
    assert edited(sae, x, clamp, keep_error=False).tolist() == [[-1.0, 0.25, 0, 0, 0, 0]]
    assert edited(sae, x, Clamp((), ())) is x


def fitted(architecture: str = "relu", **settings) -> tuple[SAE, torch.Tensor]:
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(2)) * 3 + 1
    config = SAEConfig(
        d_in=5, d_sae=12, architecture=architecture, reconstruction="mse", **settings
    )
    sae = SAE(config, seed=3)
    sae.fit_inputs(x)
    return sae.eval(), x


@pytest.mark.parametrize("scaling", ["none", "scale", "standardize", "whiten"])
def test_a_multiplier_in_norms_moves_inputs_by_that_norm(scaling):
    sae, x = fitted(input_scaling=scaling)
    size = sizes(sae, np.ones(12), "norm")
    active = int((sae.encode(x) > 0).sum(0).argmax())
    rows = x[(sae.encode(x) > 0)[:, active]]
    off = edited(sae, rows, Clamp((active,), (0.0,)))
    pushed = edited(sae, rows, Clamp((active,), (-20 * float(size[active]),)))
    moved = (off - pushed).norm(dim=1)
    torch.testing.assert_close(moved, torch.full_like(moved, 20.0), rtol=1e-4, atol=1e-4)


def test_norms_are_refused_where_each_example_has_a_scale_of_its_own():
    sae, x = fitted(input_scaling="layer_norm")
    with pytest.raises(ConfigError, match="unit='activity'"):
        sizes(sae, np.ones(12), "norm")
    assert torch.equal(edited(sae, x, Clamp((), ())), x)
    changed = edited(sae, x, Clamp(tuple(range(12)), (0.0,) * 12), keep_error=False)
    # All latents off: what is left is b_dec, in the units of each example.
    expected = sae.decode(torch.zeros(64, 12), sae.context(x))
    torch.testing.assert_close(changed, expected)


def evidence(n: int = 40) -> LatentEvidence:
    rng = np.random.default_rng(4)
    return LatentEvidence(rng.random(n), rng.random(n) * 0.02, rng.random(n), np.full(n, 2.0))


def test_random_latents_are_others_of_like_frequency():
    rng = np.random.default_rng(5)
    frequency = np.exp(rng.uniform(-6, 0, 400))
    chosen = np.arange(20)
    for seed in range(5):
        drawn = matched_random(chosen, frequency, seed=seed)
        assert not set(drawn) & set(chosen) and len(set(drawn)) == 20
        ratio = np.log(frequency[drawn] / frequency[chosen])
        assert np.abs(ratio).max() < 1.0 and abs(ratio.mean()) < 0.1
    assert (matched_random(chosen, frequency, seed=0) != drawn).any()
    with pytest.raises(SelectionError):
        matched_random([0, 1], [0.5, 0.5, 0.5], seed=0)


def test_a_sweep_asks_for_each_clamp_once_and_pairs_it_rightly():
    asked = []

    def damage(clamps):
        asked.extend(clamps)
        return [{"forget": sum(c.latents), "retain": -sum(c.values)} for c in clamps]

    found = evidence()
    table = unlearning_sweep(
        found, damage, n_latents=(3, 100), multipliers=(1.0, 4.0), max_retain=(0.004, 0.03)
    )
    assert len(set(asked)) == len(asked)
    chosen = table[table["arm"] == "chosen"]
    row: Any
    for _, row in chosen.iterrows():
        ranked = found.ranked(row["max_retain"])[: row["n_latents"]]
        assert row["n_clamped"] == len(ranked) and row["forget"] == ranked.sum()
        assert row["retain"] == pytest.approx(2.0 * row["multiplier"] * len(ranked))
    # Where all forty pass, none is left to draw a control from.
    random = table[table["arm"] == "random"]
    assert set(zip(random["n_latents"], random["max_retain"])) == {
        (3, 0.004), (100, 0.004), (3, 0.03)
    }  # fmt: skip
    assert set(table["seed"]) == {-1, 0, 1, 2}


def test_a_threshold_that_no_latent_passes_clamps_none():
    table = unlearning_sweep(
        evidence(),
        lambda clamps: [{"forget": 1.0 * len(c.latents), "retain": 0.0} for c in clamps],
        max_retain=(0.0,),
    )
    assert not table[["n_clamped", "forget"]].to_numpy().any()


def test_damages_that_do_not_fit_their_clamps_are_refused():
    with pytest.raises(DataError, match="one per clamp"):
        unlearning_sweep(evidence(), lambda clamps: [])
    with pytest.raises(ConfigError, match="multiplier"):
        evidence().clamp([0], -1.0)


def test_the_front_holds_what_no_setting_beats():
    rng = np.random.default_rng(6)
    table = pd.DataFrame({"retain": rng.random(60).round(2), "forget": rng.random(60).round(2)})
    front = damage_front(table)
    points = table.to_numpy()
    for retain, forget in points:
        beaten = (
            (points[:, 0] <= retain)
            & (points[:, 1] >= forget)
            & ((points[:, 0] < retain) | (points[:, 1] > forget))
        ).any()
        listed = ((front["retain"] == retain) & (front["forget"] == forget)).any()
        assert listed != beaten
    assert front["forget"].is_monotonic_increasing and front["retain"].is_monotonic_increasing


def test_the_score_chooses_on_validation_rows_where_there_are_any():
    table = pd.DataFrame(
        {
            "sae": "SAE", "arm": "chosen", "seed": -1, "max_retain": 0.01, "n_latents": [1, 2, 3],
            "n_clamped": [1, 2, 3], "multiplier": 5.0,
            "forget": [0.2, 0.9, 0.6], "retain": [0.0, 0.05, 0.2],
        }
    )  # fmt: skip
    on_test = unlearning_score(table, max_retain_damage=0.1).iloc[0]
    assert on_test["forget"] == 0.9 and on_test["chosen_on"] == "test"
    table["forget_validation"], table["retain_validation"] = [0.3, 0.8, 0.9], [0.0, 0.5, 0.05]
    stacked = pd.concat([table, table.assign(sae="other")])
    apart = unlearning_score(stacked, max_retain_damage=0.1)
    assert apart["forget"].tolist() == [0.6, 0.6] and set(apart["chosen_on"]) == {"validation"}
    nothing = unlearning_score(table, max_retain_damage=-1.0).iloc[0]
    assert nothing["forget"] == 0 and nothing["n_clamped"] == 0


def test_the_latent_of_a_variable_is_found_and_nothing_else_is_lost():
    x, variables = world()
    found = evidence_from_tuning(Axes(), x, variables, "a", TRAIN)
    assert found.ranked(0.02)[0] == 0 and found.forget[0] > 0.8 and found.retain[1] > 0.6
    damage = decoding_damage(
        Axes(), x, variables, "a", train=TRAIN, validation=VALIDATION, test=TEST
    )
    off, nothing, wrong = damage(
        [found.clamp([0], 0.0), found.clamp([], 0.0), found.clamp([1], 0.0)]
    )
    assert off["forget"] == 1.0 and abs(off["retain"]) < 1e-3
    assert off["forget_validation"] == 1.0 and abs(off["retain_validation"]) < 1e-3
    assert nothing["forget"] == pytest.approx(0) and nothing["retain"] == pytest.approx(0)
    assert wrong["retain"] == 1.0 and abs(wrong["forget"]) < 1e-3


def test_a_sweep_over_a_planted_latent_beats_random_ones():
    x, variables = world()
    found = evidence_from_tuning(Axes(), x, variables, "a", TRAIN)
    damage = decoding_damage(Axes(), x, variables, "a", train=TRAIN, test=TEST)
    table = unlearning_sweep(
        found, damage, n_latents=(1,), multipliers=(0.0, 2.0), max_retain=(0.02,)
    )
    score = unlearning_score(table, max_retain_damage=0.05)
    forgotten = dict(zip(zip(score["arm"], score["seed"]), score["forget"]))
    assert forgotten.pop(("chosen", -1)) == 1.0
    assert len(forgotten) == 3 and max(forgotten.values()) < 0.05


def test_a_new_reader_still_finds_what_a_negative_clamp_marks():
    x, variables = world()
    damages = {
        refit: decoding_damage(
            Axes(), x, variables, "a", train=TRAIN, test=TEST, readout="latents", refit=refit
        )([Clamp((0,), (-5.0,)), Clamp((0,), (0.0,))])
        for refit in (False, True)
    }
    assert damages[False][0]["forget"] == 1.0 and damages[False][1]["forget"] == 1.0
    # Whether the latent was active is told by its sign; switched off, it says nothing.
    assert 0.2 < damages[True][0]["forget"] < 0.8
    assert damages[True][1]["forget"] == pytest.approx(1.0, abs=0.02)


def test_what_the_sae_left_out_can_still_be_read():
    x, variables = world()
    half = Axes(constant=0.7)  # it never sees what lies below 0.7
    lost = [
        decoding_damage(
            half, x, variables, "a", train=TRAIN, test=TEST, keep_error=keep, refit=True
        )([Clamp((0,), (0.0,))])[0]["forget"]
        for keep in (True, False)
    ]
    assert lost[0] < 0.8 and lost[1] > 0.97


def test_what_cannot_be_decoded_can_neither_be_forgotten_nor_kept():
    x, variables = world()
    noise = stepped(np.random.default_rng(7).random(N), "noise")
    with pytest.raises(SelectionError, match="noise"):
        decoding_damage(Axes(), x, [*variables, noise], "noise", train=TRAIN, test=TEST)
    with pytest.warns(UserWarning, match="neither kept nor lost: noise"):
        damage = decoding_damage(Axes(), x, [*variables, noise], "a", train=TRAIN, test=TEST)
    # A variable that was never there does not count as kept or lost.
    assert damage([Clamp((1,), (0.0,))])[0]["retain"] == 1.0
    scores = decoding_scores(Axes(), x, variables, train=TRAIN, test=TEST)
    assert scores.to_numpy().min() > 0.99
    with pytest.raises(DataError, match="forget = 'c'"):
        decoding_damage(Axes(), x, variables, "c", train=TRAIN, test=TEST)


@pytest.mark.parametrize("unit", [1.0, np.pi / 180])
def test_circular_variables_are_read_in_degrees_and_in_radians(unit):
    rng = np.random.default_rng(8)
    angle = rng.uniform(-180, 180, N)
    centres = np.arange(-165.0, 180, 30)
    group = ((angle + 180) // 30).astype(int)
    heading = Variable("heading", "circular", angle * unit, group, centres * unit)
    features = np.stack([np.cos(np.radians(angle)), np.sin(np.radians(angle))], axis=1)
    reader = Reader(heading, features[TRAIN], TRAIN)
    assert reader.score(features[TEST], TEST) > 0.999
    assert reader.score(rng.normal(size=(300, 2)), TEST) < 0


def test_events_are_scored_between_chance_and_one():
    rng = np.random.default_rng(9)
    group = rng.integers(-1, 4, N)
    event = Variable("go_time", "event", group * 0.1, group, np.arange(4) * 0.1)
    features = np.eye(5)[group + 1]
    reader = Reader(event, features[TRAIN], TRAIN)
    assert reader.score(features[TEST], TEST) == 1.0
    assert abs(reader.score(rng.permutation(features[TEST]), TEST)) < 0.15
    with pytest.raises(SelectionError, match="too few"):
        Reader(event, features[:8], np.arange(8))


def test_windows_are_refused():
    sae = SAE(SAEConfig(d_in=D, d_sae=8, architecture="topk", k=2, seq_len=2))
    x, variables = world()
    with pytest.raises(ConfigError, match="windows"):
        evidence_from_tuning(sae, x, variables, "a", TRAIN)


def test_ridge_is_scikit_learns_with_the_same_folds():
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold

    rng = np.random.default_rng(10)
    x = rng.normal(size=(100, 30))
    y = x[:, :2] + 3 * rng.normal(size=(100, 2)) + 5
    known = RidgeCV(alphas=ALPHAS, cv=KFold(N_FOLDS), scoring="neg_mean_squared_error").fit(x, y)
    assert ALPHAS[0] < known.alpha_ < ALPHAS[-1]
    weights, offset = ridge(x, y)
    np.testing.assert_allclose(weights, np.asarray(known.coef_).T, atol=1e-9)
    np.testing.assert_allclose(offset, known.intercept_, atol=1e-9)


WORDS_TO_FORGET, VOCABULARY = 4, 8


class Toy(nn.Module):
    """Next tokens from a one-hot code of this one and a flag on the words to forget."""

    def __init__(self) -> None:
        super().__init__()
        code = torch.eye(VOCABULARY, VOCABULARY + 1)
        code[:WORDS_TO_FORGET, -1] = 1.0
        self.code = nn.Parameter(code, requires_grad=False)
        self.site = nn.Identity()
        generator = torch.Generator().manual_seed(0)
        self.head = nn.Parameter(
            torch.randn(VOCABULARY + 1, VOCABULARY, generator=generator), requires_grad=False
        )

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.site(self.code[input_ids]) @ self.head)


class Flag:
    """Latent 0 is the flag, the others are words."""

    def __init__(self, error: float = 0.0) -> None:
        self.W_dec = torch.eye(VOCABULARY + 1).roll(1, dims=0)
        self.error = error

    def encode(self, x):
        return (x @ self.W_dec.T - self.error).relu()

    def decode(self, latents):
        return latents @ self.W_dec


def batches(words: range, seed: int, n: int = 3) -> list[TokenBatch]:
    rng = np.random.default_rng(seed)
    return [
        TokenBatch.of(
            [rng.choice(words, 12).tolist(), rng.choice(words, 7).tolist()],
            documents=[2 * i, 2 * i + 1],
        )
        for i in range(n)
    ]


def test_a_planted_latent_costs_one_domain_what_it_should_and_the_other_nothing():
    model, sae = Toy().eval(), Flag()
    forget, retain = range(WORDS_TO_FORGET), range(WORDS_TO_FORGET, VOCABULARY)
    found = evidence_from_texts(sae, model, model.site, batches(forget, 0), batches(retain, 1))
    assert found.forget[0] == 1.0 and found.retain[0] == 0.0
    assert found.ranked(0.01)[0] == 0 and found.ranked(0.01).max() <= WORDS_TO_FORGET
    held_out = batches(forget, 2), batches(retain, 3)
    damage = loss_damage(
        sae, model, model.site, *held_out, forget_validation=batches(forget, 4),
        retain_validation=batches(retain, 5), progress=False,
    )  # fmt: skip
    clamped, nothing = damage([found.clamp([0], 3.0), found.clamp([], 3.0)])
    assert set(nothing.values()) == {0.0}
    assert clamped["retain"] == clamped["retain_kl"] == clamped["retain_validation"] == 0.0
    # The flag of each kept word falls from 1 to -3; the first of a context is left alone.
    expected, kl, n = 0.0, 0.0, 0
    for batch in held_out[0]:
        for ids in (batch.input_ids[0, :12], batch.input_ids[1, :7]):
            logits = model(ids).logits[1:-1].log_softmax(-1)
            changed = (model(ids).logits[1:-1] - 4 * model.head[-1]).log_softmax(-1)
            step = torch.arange(len(ids) - 2)
            expected += float((logits - changed)[step, ids[2:]].sum())
            kl += float((logits.exp() * (logits - changed)).sum())
            n += len(step)
    assert clamped["forget"] == pytest.approx(expected / n, abs=1e-5)
    assert clamped["forget_kl"] == pytest.approx(kl / n, abs=1e-5) and kl > 0
    assert clamped["forget_validation"] != clamped["forget"]


def test_what_the_sae_leaves_out_is_damage_only_where_it_is_left_out():
    model = Toy().eval()
    texts = batches(range(WORDS_TO_FORGET), 2), batches(range(WORDS_TO_FORGET, VOCABULARY), 3)
    nothing = [Clamp((), ())]
    for error, keep_error in ((0.0, False), (0.4, True)):
        damage = loss_damage(
            Flag(error), model, model.site, *texts, keep_error=keep_error, progress=False
        )
        assert damage(nothing)[0]["forget_kl"] == pytest.approx(0.0, abs=1e-7)
    alone = loss_damage(Flag(0.4), model, model.site, *texts, keep_error=False, progress=False)
    assert alone(nothing)[0]["retain_kl"] > 0.01


def test_text_without_a_position_to_score_is_refused():
    model = Toy().eval()
    short = [TokenBatch.of([[1], [2, 3]])]
    damage = loss_damage(Flag(), model, model.site, short, batches(range(4, 8), 0), progress=False)
    with pytest.raises(SelectionError, match="forget: no position"):
        damage([Clamp((0,), (-1.0,))])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_clamps_in_a_transformer_are_those_of_a_plain_hook():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, initializer_range=0.3,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval().requires_grad_(False)
    site, rng = Site(1), np.random.default_rng(0)
    batch = TokenBatch.of(rng.integers(0, 32, (4, 10)).tolist(), documents=range(4))
    x = read_activations(model, batch.inputs(), site)
    sae = SAE(SAEConfig(d_in=16, d_sae=40, architecture="topk", k=4, reconstruction="mse"))
    sae.fit_inputs(x.flatten(0, 1))
    sae.eval()
    clamp = Clamp(tuple(range(0, 40, 3)), (-2.0,) * 14)
    found = loss_damage(sae, model, site, [batch], [batch], progress=False)([clamp])[0]

    def hook(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden.clone()
        changed[:, 1:] = edited(sae, hidden[:, 1:].flatten(0, 1), clamp).reshape(4, 9, 16)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def loss():
        logits = model(**batch.inputs()).logits[:, 1:-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, batch.input_ids[:, 2:].flatten())

    clean = loss()
    handle = site.module_in(model).register_forward_hook(hook)
    risen = loss() - clean
    handle.remove()
    assert found["forget"] == found["retain"] == pytest.approx(float(risen), abs=1e-5)
    assert abs(float(risen)) > 1e-3
