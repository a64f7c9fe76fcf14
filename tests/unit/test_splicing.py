"""Splicing: what goes in the place of activations, where, and what stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from saebook.errors import DataError
from saebook.evaluation.language_passes import BatchPasses
from saebook.language.sites import Site
from saebook.language.splicing import constant, reconstructing, spliced, zeros
from saebook.models import SAE, SAEConfig

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TOKENS: dict[str, Any] = {"vocab_size": 40, "max_position_embeddings": 32}


def neox():
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(**SIZES, **TOKENS, bos_token_id=0, eos_token_id=0)
    ).eval()


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **TOKENS)).eval()


def vit():
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": 8, "patch_size": 4, "num_labels": 5}
    return ViTForImageClassification(ViTConfig(**SIZES, **sizes)).eval()


def inputs_of(model):
    generator = torch.Generator().manual_seed(1)
    if isinstance(model, ViTForImageClassification):
        return {"pixel_values": torch.rand(3, 3, 8, 8, generator=generator)}
    return {"input_ids": torch.randint(40, (3, 9), generator=generator), "use_cache": False}


MODELS = [neox, llama, vit]
SITES = [Site(1), Site(0), Site(2), Site(1, "mlp"), Site(1, "attention")]


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("site", SITES, ids=str)
def test_the_identity_changes_no_bit_and_zeros_change_much(make, site):
    model = make()
    inputs = inputs_of(model)
    clean = logits(model, inputs)
    with spliced(model, site, lambda x: x) as splice:
        assert torch.equal(logits(model, inputs), clean)
    assert splice.n_calls == 1 and splice.n_replaced == splice.n_positions > 0
    with spliced(model, site, zeros):
        assert (logits(model, inputs) - clean).abs().max() > 1e-4
    assert torch.equal(logits(model, inputs), clean)  # nothing stays behind


def test_positions_that_are_not_kept_stay_as_they_were():
    model, site = neox(), Site(1)
    inputs = inputs_of(model)
    keep = torch.zeros(3, 9, dtype=torch.bool)
    keep[1, 4] = True
    seen = []
    reader = site.module_in(model).register_forward_hook(lambda m, a, out: seen.append(out))
    clean = logits(model, inputs)
    reader.remove()
    with spliced(model, site, zeros, keep=keep) as splice:
        after = logits(model, inputs)
        reader = Site(2).module_in(model).register_forward_pre_hook(lambda m, a: seen.append(a[0]))
        logits(model, inputs)
        reader.remove()
    assert splice.n_replaced == 2 and splice.n_calls == 2
    assert torch.equal(seen[1][keep], torch.zeros(1, 16))
    assert torch.equal(seen[1][~keep], seen[0][~keep])
    # A causal model: other texts and earlier positions can't know.
    assert torch.equal(after[[0, 2]], clean[[0, 2]]) and torch.equal(after[1, :4], clean[1, :4])
    assert (after[1, 4:] - clean[1, 4:]).abs().max() > 1e-4


def test_a_residual_splice_decides_everything_that_follows():
    model = neox()
    other = torch.rand(3, 9, 16, generator=torch.Generator().manual_seed(2))
    with spliced(model, Site(2), lambda x: other):
        made = logits(model, inputs_of(model))
    norm, head = model.gpt_neox.final_layer_norm, model.get_output_embeddings()
    assert torch.allclose(made, head(norm(other)), atol=1e-6)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("site", SITES, ids=str)
def test_skipping_the_blocks_below_changes_no_bit(make, site):
    model = make()
    inputs = inputs_of(model)
    passes = BatchPasses(model, site, inputs)
    calls = []
    first = Site(0).module_in(model).register_forward_hook(lambda m, a, out: calls.append(out))
    for replace in (lambda x: x, zeros, constant(torch.ones(16)), lambda x: 0.5 * x):
        made = passes.replaced(replace).logits
        with spliced(model, site, replace):
            assert torch.equal(made, logits(model, inputs))
    first.remove()
    assert torch.equal(passes.replaced(lambda x: x).logits, logits(model, inputs))
    module = Site(0).module_in(model)
    assert "forward" not in module.__dict__ and len(calls) == 8


def test_skipped_blocks_do_no_work():
    model = neox()
    passes = BatchPasses(model, Site(2), inputs_of(model))
    worked = []
    Site(0, "mlp").module_in(model).register_forward_hook(lambda m, a, out: worked.append(0))
    Site(2, "mlp").module_in(model).register_forward_hook(lambda m, a, out: worked.append(2))
    passes.replaced(zeros)
    assert worked == [2]


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(DataError, match="training mode"):
        BatchPasses(neox().train(), Site(1), {"input_ids": torch.zeros(1, 4, dtype=torch.long)})


def test_reconstructions_come_back_in_the_models_type_and_keep_their_scale():
    x = torch.rand(2, 5, 16, generator=torch.Generator().manual_seed(0)) + 3
    sae = SAE(SAEConfig(d_in=16, d_sae=32, architecture="topk", k=4, input_scaling="layer_norm"))
    sae.fit_inputs(x.flatten(0, 1))
    replace = reconstructing(sae.eval())
    made = replace(x.bfloat16())
    assert made.dtype == torch.bfloat16 and made.shape == x.shape
    whole = sae(x.flatten(0, 1))[0].detach().reshape(x.shape)
    assert torch.allclose(replace(x), whole, atol=1e-5)


def test_gradients_pass_through_a_splice():
    model = neox()
    scale = torch.ones((), requires_grad=True)
    with spliced(model, Site(1), lambda x: scale * x):
        model(**inputs_of(model)).logits.square().sum().backward()
    assert scale.grad is not None and float(scale.grad.abs()) > 0


@pytest.mark.parametrize(
    ("replace", "keep", "said"),
    [
        (lambda x: x[:, :3], None, "were replaced by"),
        (lambda x: torch.full_like(x, torch.nan), None, "not finite"),
        (lambda x: x, torch.ones(2, 2, dtype=torch.bool), "keep has shape"),
        (constant(torch.zeros(3)), None, "the mean has shape"),
    ],
)
def test_what_does_not_fit_is_named(replace, keep, said):
    model = neox()
    with pytest.raises(DataError, match=said), spliced(model, Site(1), replace, keep=keep):
        logits(model, inputs_of(model))
    logits(model, inputs_of(model))  # the hook is gone


def test_a_splice_that_overflows_half_precision_is_named():
    model = neox().half()
    with (
        pytest.raises(DataError, match="float16"),
        spliced(model, Site(1), constant(torch.full((16,), 1e6))),
    ):
        logits(model, inputs_of(model))


def test_a_nan_where_nothing_is_replaced_is_no_matter():
    model = neox()
    keep = torch.ones(3, 9, dtype=torch.bool)
    keep[:, 0] = False

    def replace(x):
        made = x.clone()
        made[:, 0] = torch.nan
        return made

    with spliced(model, Site(1), replace, keep=keep):
        assert logits(model, inputs_of(model)).isfinite().all()


def test_a_site_that_the_model_never_passes_is_named():
    with (
        pytest.raises(DataError, match="no pass of the model"),
        spliced(neox(), nn.Linear(2, 2), zeros),
    ):
        pass


def test_an_error_inside_is_not_hidden_by_the_missing_pass():
    with pytest.raises(KeyError), spliced(neox(), Site(1), zeros):
        raise KeyError
