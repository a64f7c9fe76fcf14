"""Scores of SAEs inside models: exact anchors, one mask in every number, any task."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, ViTConfig, ViTForImageClassification

from saebook.errors import DataError, SelectionError
from saebook.evaluation.language_scores import score_language_model, score_spliced
from saebook.language import LanguageModel, MaskRule, Site, TokenBatch
from saebook.language.token_views import GAP, top_excerpts
from saebook.metrics import explained_variance
from saebook.metrics.language import (
    loss_recovered,
    next_token_kl,
    next_token_losses,
    pareto_front,
    scored_positions,
)
from saebook.metrics.shrinkage import ShrinkageSums, shrinkage

D_MODEL, VOCABULARY, SITE = 16, 40, Site(1)
SIZES: dict[str, Any] = {"hidden_size": D_MODEL, "num_hidden_layers": 3, "num_attention_heads": 2,
         "intermediate_size": 32}  # fmt: skip

IMAGES: dict[str, Any] = {"image_size": 8, "patch_size": 4, "num_labels": 5,
                          "initializer_range": 0.5}  # fmt: skip


class Made:
    """An SAE-like object that makes one thing of every activation."""

    def __init__(self, make):
        self.make = make

    def encode(self, x):
        return x

    def decode(self, latents):
        return self.make(latents)


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        **SIZES, vocab_size=VOCABULARY, max_position_embeddings=32, bos_token_id=0, eos_token_id=0,
        initializer_range=0.5,
    )  # fmt: skip
    return LanguageModel(GPTNeoXForCausalLM(config).eval(), None, "tiny")


def contexts(n=6, length=12, seed=0):
    return torch.randint(1, VOCABULARY, (n, length), generator=torch.Generator().manual_seed(seed))


def batches(rows, size, special_ids=()):
    return [
        TokenBatch.of(part.tolist(), documents=range(len(part)), special_ids=special_ids)
        for part in rows.split(size)
    ]


def activations(lm, rows):
    seen = []
    handle = SITE.module_in(lm.model).register_forward_hook(lambda m, a, out: seen.append(out))
    with torch.no_grad():
        logits = lm.model(input_ids=rows).logits
    handle.remove()
    return seen[0], logits


@pytest.fixture(scope="module")
def scored(lm):
    """Cards of four known replacements, and the activations they replaced."""
    rows = contexts()
    x = activations(lm, rows)[0][:, 1:].reshape(-1, D_MODEL)
    mean = x.mean(dim=0)
    saes = {
        "identity": Made(lambda x: x),
        "zeros": Made(torch.zeros_like),
        "mean of the data": Made(lambda x: mean.expand_as(x)),
        "half": Made(lambda x: 0.5 * x),
    }
    cards = score_language_model(lm, batches(rows, 6), SITE, saes, mean=mean, progress=False)
    return cards, x


def test_the_identity_costs_nothing_and_scores_one(scored):
    card = scored[0]["identity"]
    assert card.loss.delta == 0.0 and card.kl.spliced == 0.0
    assert card.loss.score == card.kl.score == card.loss.recovered_from_mean == 1.0
    assert card.reconstruction.explained_variance == 1.0 and card.shrinkage == 1.0


def test_zeros_score_zero_and_their_explained_variance_is_the_datas(scored):
    cards, x = scored
    card = cards["zeros"]
    assert card.loss.score == card.kl.score == 0.0 and card.loss.spliced == card.loss.zero
    variance = x.var(dim=0, correction=0).double().sum()
    expected = -float(x.double().mean(dim=0).square().sum() / variance)
    assert card.reconstruction.explained_variance == pytest.approx(expected, abs=1e-6)
    assert math.isnan(card.shrinkage) and card.reconstruction.l2_ratio == 0.0


def test_the_mean_predictor_explains_nothing_and_recovers_nothing(scored):
    card = scored[0]["mean of the data"]
    assert abs(card.reconstruction.explained_variance) < 1e-6
    assert card.loss.recovered_from_mean == 0.0 and card.kl.spliced == card.kl.mean
    assert card.loss.score == card.loss.score_of_mean


def test_half_of_everything_shrinks_by_half(scored):
    card = scored[0]["half"]
    assert card.shrinkage == pytest.approx(0.5) and card.reconstruction.cosine == pytest.approx(1)
    assert card.reconstruction.l2_ratio == pytest.approx(0.5)
    assert card.mse == pytest.approx(float(0.25 * scored[1].square().sum(dim=1).mean()), rel=1e-5)


def test_clean_loss_and_divergence_are_those_of_the_model_by_hand(lm, scored):
    rows = contexts()
    x, clean = activations(lm, rows)
    expected = F.cross_entropy(clean[:, 1:-1].flatten(0, 1), rows[:, 2:].flatten())
    card = scored[0]["half"]
    assert card.loss.clean == pytest.approx(float(expected), rel=1e-6)
    assert card.loss.n == 6 * 10 and card.reconstruction.n_examples == 6 * 11

    halved = x.clone()
    halved[:, 1:] *= 0.5
    handle = SITE.module_in(lm.model).register_forward_hook(lambda m, a, out: halved)
    with torch.no_grad():
        changed = lm.model(input_ids=rows).logits
    handle.remove()
    p, q = (t[:, 1:-1].double().log_softmax(-1) for t in (clean, changed))
    assert card.kl.spliced == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_scores_do_not_depend_on_the_batches(lm, scored, size):
    x = scored[1]
    saes = {"half": Made(lambda x: 0.5 * x)}
    card = score_language_model(
        lm, batches(contexts(), size), SITE, saes, mean=x.mean(dim=0), progress=False
    )["half"]
    whole = scored[0]["half"].to_dict()
    for name, value in card.to_dict().items():
        assert value == pytest.approx(whole[name], rel=2e-5), name


def test_padding_changes_no_score(lm, scored):
    x = scored[1]
    rows = [row[: 12 - i].tolist() for i, row in enumerate(contexts())]
    saes = {"half": Made(lambda x: 0.5 * x)}

    def card(size):
        parts = [TokenBatch.of(rows[i : i + size]) for i in range(0, 6, size)]
        return score_language_model(lm, parts, SITE, saes, mean=x.mean(dim=0), progress=False)

    padded, alone = card(6)["half"], card(1)["half"]
    assert padded.masked["padding"] == 15 and alone.masked["padding"] == 0
    assert padded.loss.n == alone.loss.n == sum(len(row) - 2 for row in rows)
    assert padded.loss.spliced == pytest.approx(alone.loss.spliced, rel=1e-5)
    assert padded.kl.spliced == pytest.approx(alone.kl.spliced, rel=1e-4)


def test_one_mask_in_every_number(lm):
    rows = contexts()
    rows[:, 5] = 7  # a special token in the middle
    n_special = int((rows[:, 1:] == 7).sum())
    seen = []

    def watch(x):
        seen.append(len(x))
        return x

    rule = MaskRule(skip_first=3)
    n_kept = 6 * 9 - int((rows[:, 3:] == 7).sum())
    cards = score_language_model(
        lm, batches(rows, 3, special_ids=[7]), SITE, {"copy": Made(watch)},
        mean=torch.zeros(D_MODEL), mask=rule, progress=False,
    )  # fmt: skip
    card = cards["copy"]
    assert n_special >= 6 and sum(seen) == n_kept == card.reconstruction.n_examples
    last_special = int((rows[:, -1] == 7).sum())
    assert card.loss.n == card.kl.n == n_kept - (6 - last_special)
    assert card.masked["first"] == 18
    assert card.masked["special"] == int((rows[:, 3:] == 7).sum())


def test_the_sink_stays_in_every_pass(lm):
    """A replacement that is absurd at masked positions costs nothing there."""
    rows = contexts()
    sink = activations(lm, rows)[0][:, 0]
    absurd = Made(lambda x: torch.where((x[:, None] == sink).all(-1).any(-1)[:, None], 1e9, x))
    card = score_language_model(
        lm, batches(rows, 6), SITE, {"absurd": absurd}, mean=torch.zeros(D_MODEL), progress=False
    )["absurd"]
    assert card.loss.delta == 0.0 and card.loss.zero > card.loss.clean + 1e-3


def test_dead_latents_are_counted_over_the_rows_given(lm):
    rows = torch.zeros(500, D_MODEL)
    rows[0, 0] = 1.0
    card = score_language_model(
        lm, batches(contexts(), 6), SITE, {"copy": Made(lambda x: x)}, mean=torch.zeros(D_MODEL),
        rows=rows, progress=False,
    )["copy"]  # fmt: skip
    assert card.counted.n_examples == 500 and card.counted.dead_fraction == 15 / 16
    assert card.to_dict()["n_counted"] == 500 and "500 tokens" in str(card)


def test_flags_say_what_a_score_means(lm, scored):
    silent = type("Silent", (Made,), {"encode": lambda self, x: torch.zeros_like(x)})
    card = score_language_model(
        lm, batches(contexts(), 6), SITE, {"zeros": silent(lambda z: z - 9.0)},
        mean=scored[1].mean(dim=0), progress=False,
    )["zeros"]  # fmt: skip
    assert set(card.flags) == {"silent", "worse_than_mean"} and "! silent" in str(card)
    assert not scored[0]["identity"].flags


def test_what_cannot_be_scored_is_named(lm):
    copy = Made(lambda x: x)
    some = {"mean": torch.zeros(D_MODEL), "progress": False}
    with pytest.raises(SelectionError, match="no position was kept"):
        score_language_model(
            lm, batches(contexts(), 6), SITE, {"a": copy}, mask=MaskRule(skip_first=12), **some
        )
    with pytest.raises(DataError, match="named 'zero'"):
        score_language_model(lm, batches(contexts(), 6), SITE, {"zero": copy}, **some)
    with pytest.raises(DataError, match="the mean has shape"):
        score_language_model(
            lm, batches(contexts(), 6), SITE, {"a": copy}, mean=torch.zeros(3), progress=False
        )


def test_a_vision_classifier_loses_what_its_patches_lose():
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**SIZES, **IMAGES)).eval()
    images = torch.rand(10, 3, 8, 8)
    labels = torch.arange(10) % 5
    parts = [
        {"pixel_values": i, "labels": t}
        for i, t in zip(images.split(4), labels.split(4), strict=True)
    ]
    saes = {"copy": Made(lambda x: x), "zeros": Made(torch.zeros_like),
            "half": Made(lambda x: 0.5 * x)}  # fmt: skip

    def each(output, batch):
        return F.cross_entropy(output.logits, batch["labels"], reduction="none")

    def given(output, batch):
        return output.loss

    def patches(batch, x):
        keep = torch.ones_like(x[..., 0], dtype=torch.bool)
        keep[:, 0] = False  # the class token stays
        return keep

    cards = score_spliced(
        model, parts, SITE, saes, each, mean=torch.zeros(D_MODEL), keep=patches, progress=False
    )
    assert cards["copy"].loss.delta == 0.0 and cards["copy"].loss.score == 1.0
    assert cards["zeros"].loss.spliced == cards["zeros"].loss.zero
    assert cards["half"].reconstruction.n_examples == 10 * 4 and cards["half"].loss.n == 10
    with torch.no_grad():
        whole = F.cross_entropy(model(pixel_values=images).logits, labels)
    assert cards["half"].loss.clean == pytest.approx(float(whole), rel=1e-6)
    # The mean of each batch, weighed by its size, is the mean over images.
    batchwise = score_spliced(
        model, parts, SITE, saes, given, mean=torch.zeros(D_MODEL), keep=patches, progress=False
    )
    assert batchwise["half"].loss.delta == pytest.approx(cards["half"].loss.delta, abs=1e-6)
    assert "task loss" in str(batchwise["half"])


def test_a_classifier_of_vectors_can_be_scored_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x, labels = torch.rand(9, 4), torch.arange(9) % 3

    def loss(logits, batch):
        return F.cross_entropy(logits, batch[1], reduction="none")

    card = score_spliced(
        model, [(x, labels)], model[1], {"half": Made(lambda h: 0.5 * h)}, loss,
        mean=torch.zeros(6), progress=False,
    )["half"]  # fmt: skip
    with torch.no_grad():
        halved = F.cross_entropy(model[2](0.5 * model[1](model[0](x))), labels)
    assert card.loss.spliced == pytest.approx(float(halved), rel=1e-6)


def test_a_loss_of_changing_size_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)).eval()
    sizes = iter((3, 2, 3, 3))
    with pytest.raises(DataError, match="same items"):
        score_spliced(
            model, [torch.ones(1, 3, 4)], model[0], {"copy": Made(lambda x: x)},
            lambda output, batch: torch.zeros(next(sizes)), mean=torch.zeros(4), progress=False,
        )  # fmt: skip


def test_scored_positions_need_a_next_token_of_their_document():
    keep = torch.tensor([[True, True, True, True, True, True]])
    document = torch.tensor([[3, 3, 4, 4, -1, -1]])
    assert scored_positions(keep, document).tolist() == [[True, False, True, False, False, False]]
    with pytest.raises(DataError, match="last position"):
        next_token_losses(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), keep[:, :2])


def test_divergence_is_measured_from_the_clean_prediction():
    clean, changed = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.1, 0.3, 0.6]).log()
    one, other = torch.stack([clean, clean])[None], torch.stack([changed, changed])[None]
    scored = torch.tensor([[True, False]])
    p, q = clean.exp(), changed.exp()
    assert next_token_kl(one, other, scored).item() == pytest.approx(
        float((p * (p / q).log()).sum())
    )
    assert next_token_kl(other, one, scored).item() == pytest.approx(
        float((q * (q / p).log()).sum())
    )
    huge = torch.full((1, 2, 3), torch.inf)
    with pytest.raises(DataError, match="not finite"):
        next_token_kl(huge, huge, scored)


def test_losses_of_half_precision_logits_are_computed_in_single():
    logits = torch.tensor([[[10.0, 0.0], [0.0, 0.0]]])
    scored = torch.tensor([[True, False]])
    tokens = torch.tensor([[0, 0]])
    got = next_token_losses(logits.bfloat16(), tokens, scored)
    assert got.dtype == torch.float32 and got.item() == pytest.approx(
        math.log1p(math.exp(-10)), rel=1e-3
    )


def test_nothing_to_recover_is_undefined():
    assert math.isnan(loss_recovered(3.0, 3.0, 3.5)) and math.isnan(loss_recovered(3.0, 2.9, 3.5))


def test_pareto_front_keeps_what_nothing_beats():
    generator = torch.Generator().manual_seed(0)
    costs = torch.randint(0, 8, (40, 2), generator=generator).float()
    front = pareto_front(costs)
    for i, own in enumerate(costs):
        beaten = any((o <= own).all() and (o < own).any() for o in costs)
        assert bool(front[i]) is not beaten


def test_shrinkage_is_the_best_divisor():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 5, generator=generator)
    made = 0.7 * x + 0.3 * torch.randn(50, 5, generator=generator)
    gamma = shrinkage(x, made)
    error = [float((made / g - x).square().sum()) for g in (0.98 * gamma, gamma, 1.02 * gamma)]
    assert error[1] < min(error[0], error[2])
    sums = ShrinkageSums()
    for a, b in zip(x.split(7), made.split(7), strict=True):
        sums.update(a, b)
    assert sums.shrinkage() == pytest.approx(gamma, rel=1e-12)
    assert explained_variance(x, x) == 1.0 and shrinkage(x, 3.0 * x) == pytest.approx(3.0)


def excerpts_of(text, activity, **settings):
    token = np.frombuffer(text.encode(), dtype=np.uint8)
    index = pd.DataFrame({"document": 0, "position": range(len(token)), "token": token})
    document, position, token = (index[c].to_numpy() for c in ("document", "position", "token"))
    activity = np.asarray(activity, dtype=float)
    return top_excerpts(activity, document, position, token, chr, **settings)


def test_neighbouring_peaks_are_one_example():
    activity = np.zeros(40)
    activity[[10, 11, 12, 30]] = [3.0, 4.0, 2.0, 1.0]
    shown = list(
        excerpts_of("abcdefghijklmnopqrstuvwxyz0123456789ABCD", activity, before=4, after=4)
    )
    assert [excerpt.position for excerpt in shown] == [11, 30]
    assert shown[0].activity[shown[0].peak] == 4.0 and len(shown[0].tokens) == 9


def test_repeats_of_a_passage_are_one_example():
    activity = np.zeros(60)
    activity[[14, 34, 54]] = [1.0, 2.0, 3.0]
    text = "0123456789abcdefghij" * 3
    assert [e.position for e in excerpts_of(text, activity, before=6, after=2)] == [54]


def test_excerpts_stop_at_documents_and_show_gaps():
    document = np.array([0, 0, 1, 1, 1, 1])
    position = np.array([0, 1, 0, 1, 5, 6])
    token = np.arange(97, 103)
    activity = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    shuffled = np.array([3, 0, 5, 1, 4, 2])
    (shown,) = top_excerpts(
        activity[shuffled], document[shuffled], position[shuffled], token[shuffled], chr
    )
    assert shown.tokens == ("c", "d", GAP, "e", "f") and shown.peak == 1
    assert (
        not list(excerpts_of("abc", [0.0, 0.0, 0.0])) and "never" in excerpts_of("a", [0.0]).html()
    )
