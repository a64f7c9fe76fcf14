"""Other libraries' checkpoints: the same outputs, or a refusal that names the cause."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from saebook.errors import CheckpointError, ConfigError, DataError
from saebook.models import SAE, SAEConfig, save_sae
from saebook.models.formats import (
    FORMATS,
    detect_format,
    load_foreign,
    read_foreign,
    save_foreign,
)

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "formats"
CASES = sorted(folder.name for folder in FIXTURES.iterdir() if folder.is_dir())


@pytest.fixture
def copy_of(tmp_path):
    """Copies a fixture to where it can be changed."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(FIXTURES / name, tmp_path / name))

    return copy


def change_settings(folder: Path, changes: dict[str, Any], drop: tuple[str, ...] = ()) -> None:
    file = folder / FORMATS[detect_format(folder)].settings_file
    found = json.loads(file.read_text())
    inner = found.get("trainer", found)
    inner.update(changes)
    for name in drop:
        del inner[name]
    file.write_text(json.dumps(found))


def change_tensors(folder: Path, file: str, changes: dict[str, torch.Tensor | None]) -> None:
    path = folder / file
    tensors = torch.load(path) if path.suffix == ".pt" else load_file(path)
    tensors |= {name: value for name, value in changes.items() if value is not None}
    for name, value in changes.items():
        if value is None:
            del tensors[name]
    if path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)


@torch.no_grad()
def outputs(sae: SAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    latents = sae.encode(x)
    return latents, sae.decode(latents, sae.context(x))


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# --- reading what the libraries wrote ---------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_computes_what_its_library_computes(name):
    expected = load_file(FIXTURES / name / "expected.safetensors")
    latents, reconstruction = outputs(load_foreign(FIXTURES / name), expected["x"])
    assert (expected["latents"] > 0).any()
    assert_same(latents, expected["latents"])
    assert_same(reconstruction, expected["reconstruction"])


@pytest.mark.parametrize("name", CASES)
def test_a_format_is_told_by_its_files(name):
    assert detect_format(FIXTURES / name) == name.partition("-")[0]


def test_every_library_has_its_fixtures_and_their_versions():
    assert {name.partition("-")[0] for name in CASES} == set(FORMATS)
    versions = json.loads((FIXTURES / "versions.json").read_text())
    assert {"sae-lens", "dictionary-learning", "eai-sparsify", "torch"} <= set(versions)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sae_lens-standard", {"architecture": "relu", "apply_b_dec_to_input": True}),
        ("sae_lens-standard_no_b_dec", {"apply_b_dec_to_input": False}),
        ("sae_lens-standard_layer_norm", {"input_scaling": "layer_norm"}),
        ("sae_lens-standard_mean_norm", {"input_scaling": "scale_mean_norm"}),
        ("sae_lens-standard_whitened", {"input_scaling": "whiten"}),
        ("sae_lens-topk", {"architecture": "topk", "k": 4, "d_in": 8, "d_sae": 32}),
        ("sae_lens-jumprelu_transcoder", {"architecture": "jumprelu", "d_out": 5}),
        ("sae_lens-matryoshka_training", {"prefixes": [8, 16, 32], "architecture": "batchtopk"}),
        ("dictionary_learning-MatryoshkaBatchTopKSAE", {"prefixes": (8, 16, 32), "k": 4}),
        ("dictionary_learning-JumpReluAutoEncoder", {"apply_b_dec_to_input": False}),
        ("sparsify-transcoder", {"architecture": "topk", "k": 4, "d_out": 8}),
    ],
)
def test_settings_come_in_our_names(name, expected):
    found, tensors = read_foreign(FIXTURES / name)
    assert {key: found[key] for key in expected} == expected
    assert tensors["encoder_rows"].shape == (32, 8)


def test_a_foreign_model_is_ready_for_use_and_refuses_to_be_initialised_again():
    sae = load_foreign(FIXTURES / "sae_lens-topk")
    assert not sae.training
    with pytest.raises(DataError, match="already fitted"):
        sae.fit_inputs(torch.randn(16, 8))


def test_weights_take_the_dtype_that_sae_lens_would_give_them(copy_of):
    folder = copy_of("sae_lens-jumprelu")
    change_settings(folder, {"dtype": "float64"})
    assert load_foreign(folder).threshold.dtype == torch.float64


def test_the_decoder_of_an_auto_encoder_is_brought_to_unit_norm():
    sae = load_foreign(FIXTURES / "dictionary_learning-AutoEncoder_april")
    raw = torch.load(FIXTURES / "dictionary_learning-AutoEncoder_april" / "ae.pt")
    assert (raw["decoder.weight"].norm(dim=0) - 1).abs().max() > 0.1
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(32))


def test_a_batchtopk_without_a_threshold_says_so_instead_of_keeping_everything(copy_of):
    folder = copy_of("dictionary_learning-BatchTopKSAE")
    change_tensors(folder, "ae.pt", {"threshold": torch.tensor(-1.0)})
    with pytest.raises(ConfigError, match="calibrate_threshold"):
        load_foreign(folder).encode(torch.randn(2, 8))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sae_lens-jumprelu", "sae_weights.safetensors"),
        ("dictionary_learning-JumpReluAutoEncoder", "ae.pt"),
    ],
)
def test_a_threshold_below_zero_lets_no_negative_latent_through(name, file, copy_of):
    folder = copy_of(name)
    change_tensors(folder, file, {"threshold": torch.full((32,), -10.0)})
    sae = load_foreign(folder)
    x = load_file(folder / "expected.safetensors")["x"]
    with torch.no_grad():
        torch.testing.assert_close(sae.encode(x), sae.pre_activations(x).relu())


# --- files of SAELens from before version 6 -----------------------------------------------


def age(folder: Path, changes: dict[str, Any], drop: tuple[str, ...]) -> None:
    old = {"hook_point": "blocks.0.hook_resid_pre", "lr": 1e-3, "activation_fn_str": "relu"}
    change_settings(folder, old | changes, ("metadata", "reshape_activations", *drop))


@pytest.mark.parametrize(
    ("name", "changes", "drop"),
    [
        ("sae_lens-standard", {"normalize_activations": False}, ("architecture",)),
        ("sae_lens-standard", {"normalize_activations": None}, ("apply_b_dec_to_input",)),
        (
            "sae_lens-topk",
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}},
            ("architecture", "k", "rescale_acts_by_decoder_norm"),
        ),
    ],
)
def test_old_settings_mean_what_they_meant(name, changes, drop, copy_of):
    folder = copy_of(name)
    age(folder, changes, drop)
    change_tensors(folder, "sae_weights.safetensors", {"scaling_factor": torch.ones(32)})
    expected = load_file(folder / "expected.safetensors")
    latents, reconstruction = outputs(load_foreign(folder), expected["x"])
    assert_same(latents, expected["latents"])
    assert_same(reconstruction, expected["reconstruction"])


def test_old_settings_that_change_outputs_are_refused(copy_of):
    folder = copy_of("sae_lens-standard")
    age(folder, {"activation_fn_str": "tanh-relu"}, ())
    with pytest.raises(CheckpointError, match="activation_fn = 'tanh-relu'"):
        load_foreign(folder)
    age_again = {"activation_fn_str": "relu", "normalize_activations": True}
    change_settings(folder, age_again)
    with pytest.raises(CheckpointError, match="normalize_activations = 'expected_average_only_in'"):
        load_foreign(folder)


def test_a_factor_per_latent_is_refused(copy_of):
    folder = copy_of("sae_lens-standard")
    change_tensors(folder, "sae_weights.safetensors", {"scaling_factor": torch.full((32,), 2.0)})
    with pytest.raises(CheckpointError, match=r"scaling_factor per latent.*rows of W_dec"):
        load_foreign(folder)


# --- what can't be represented, or doesn't fit ----------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "drop", "says"),
    [
        ("sae_lens-topk", {"architecture": "abstopk"}, (), "'abstopk'.*take either sign"),
        ("sae_lens-topk", {"architecture": "temporal"}, (), "'temporal'.*stands alone"),
        ("sae_lens-topk", {"architecture": "matching_pursuit"}, (), "one encoder pass"),
        ("sae_lens-transcoder", {"architecture": "skip_transcoder"}, (), "train without the skip"),
        ("sae_lens-topk", {"architecture": "sparsest"}, (), "can be read: standard, gated"),
        ("sae_lens-topk", {}, ("architecture",), "architecture = None"),
        ("sae_lens-topk", {"sharpness": 3}, (), "sharpness = 3 is not known.*remove it"),
        ("sae_lens-topk", {"k": 2.5}, (), "k is 2.5; it must be a whole number"),
        ("sae_lens-topk", {}, ("k",), "k is missing"),
        ("sae_lens-topk", {"k": 40}, (), "k = 40.*between 1 and d_sae = 32"),
        ("sae_lens-topk", {"dtype": "int8"}, (), "dtype = 'int8'"),
        ("sae_lens-topk", {"d_in": 9}, (), r"W_enc: \[8, 32\], expected \[9, 32\]"),
        ("sae_lens-topk", {"d_in": "8"}, (), "d_in is '8'"),
        ("sae_lens-topk", {"apply_b_dec_to_input": 1}, (), "it must be true or false"),
        ("sae_lens-jumprelu", {"architecture": "standard"}, (), "threshold.*doesn't have"),
        ("sae_lens-standard", {"architecture": "gated"}, (), "b_gate: missing"),
        ("sae_lens-standard", {"normalize_activations": "tidy"}, (), "no scaling here"),
        (
            "sae_lens-standard",
            {"normalize_activations": "expected_average_only_in"},
            (),
            "fold_activation_norm_scaling_factor",
        ),
        (
            "sae_lens-standard",
            {"normalize_activations": "covariance_whitening"},
            (),
            "fold_activation_whitening",
        ),
        (
            "sae_lens-transcoder",
            {"normalize_activations": "layer_norm"},
            (),
            "a transcoder's output is not brought back to scale",
        ),
        (
            "sae_lens-batchtopk_training",
            {},
            ("rescale_acts_by_decoder_norm",),
            "save_inference_model",
        ),
        ("sparsify-topk", {"activation": "groupmax"}, (), "'groupmax'.*train with activation="),
        ("sparsify-topk", {"skip_connection": True}, (), "skip_connection = True"),
        ("sparsify-topk", {"signed": True}, (), "signed = True"),
        ("sparsify-topk", {"sharpness": 3}, (), "sharpness = 3 is not known"),
        ("sparsify-topk", {"num_latents": 0, "expansion_factor": 2}, (), r"expected \[16, 8\]"),
        ("sparsify-topk", {}, ("d_in",), "d_in is missing"),
        (
            "dictionary_learning-AutoEncoder",
            {"dict_class": "IdentityDict"},
            (),
            "dict_class = IdentityDict can't be read",
        ),
        ("dictionary_learning-AutoEncoder", {"activation_dim": 9}, (), "activation_dim = 9"),
        ("dictionary_learning-AutoEncoder", {"dict_size": 9}, (), "dict_size = 9.*for 32"),
        ("dictionary_learning-AutoEncoderTopK", {"k": 5}, (), "k = 5, but ae.pt says 4"),
        (
            "dictionary_learning-AutoEncoder",
            {"dict_class": "AutoEncoderNew"},
            (),
            "decoder.bias: missing",
        ),
        (
            "dictionary_learning-GatedAutoEncoder",
            {"dict_class": "JumpReluAutoEncoder"},
            (),
            "threshold: missing",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name, changes, drop, says, copy_of):
    folder = copy_of(name)
    change_settings(folder, changes, drop)
    with pytest.raises(CheckpointError, match=says):
        load_foreign(folder)


@pytest.mark.parametrize(
    ("name", "file", "changes", "says"),
    [
        (
            "sae_lens-standard",
            "sae_weights.safetensors",
            {"W_dec": torch.zeros(32, 9)},
            r"W_dec: \[32, 9\], expected \[32, 8\]",
        ),
        ("sae_lens-standard", "sae_weights.safetensors", {"b_dec": None}, "b_dec: missing"),
        ("sae_lens-standard_whitened", "activation_whitening.safetensors", {"mean": None}, "mean"),
        ("sparsify-topk", "sae.safetensors", {"W_skip": torch.zeros(8, 8)}, "W_skip"),
        ("dictionary_learning-AutoEncoder", "ae.pt", {"bias": torch.zeros(9)}, r"bias: \[9\]"),
        ("dictionary_learning-AutoEncoder", "ae.pt", {"encoder.weight": None}, "encoder"),
        (
            "dictionary_learning-MatryoshkaBatchTopKSAE",
            "ae.pt",
            {"group_sizes": torch.tensor([8, 8])},
            "the last prefix is the whole dictionary",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, file, changes, says, copy_of):
    folder = copy_of(name)
    change_tensors(folder, file, changes)
    with pytest.raises(CheckpointError, match=says):
        load_foreign(folder)


@pytest.mark.parametrize(
    "name", ["sae_lens-topk", "sparsify-topk", "dictionary_learning-AutoEncoder"]
)
def test_missing_and_broken_files_are_named(name, copy_of):
    folder = copy_of(name)
    foreign = FORMATS[detect_format(folder)]
    config, weights = folder / foreign.settings_file, folder / foreign.weights_file
    whole = weights.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:7], b""):
        weights.write_bytes(part)
        with pytest.raises(CheckpointError, match=foreign.weights_file):
            load_foreign(folder)
    for broken in ("{", "[1]", "3"):
        config.write_text(broken)
        with pytest.raises(CheckpointError, match=foreign.settings_file):
            load_foreign(folder)
    config.unlink()
    with pytest.raises(CheckpointError, match=f"no {foreign.settings_file} there"):
        load_foreign(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="none of the weights"):
        load_foreign(folder)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_foreign(folder / "nowhere")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CASES), st.data())
def test_any_value_of_any_setting_is_read_or_refused(name, data):
    foreign = FORMATS[detect_format(FIXTURES / name)]
    found = json.loads((FIXTURES / name / foreign.settings_file).read_text())
    inner = found.get("trainer", found)
    inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(JSON_VALUES)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(shutil.copytree(FIXTURES / name, Path(folder) / "sae"))
        (folder / foreign.settings_file).write_text(json.dumps(found))
        with contextlib.suppress(CheckpointError):
            assert load_foreign(folder).config.d_in == 8


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CASES), st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_never_read(name, share):
    weights = FORMATS[detect_format(FIXTURES / name)].weights_file
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(shutil.copytree(FIXTURES / name, Path(folder) / "sae"))
        whole = (folder / weights).read_bytes()
        (folder / weights).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError, match=weights):
            load_foreign(folder)


def test_our_own_files_are_not_taken_for_those_of_sae_lens(tmp_path):
    folder = save_sae(SAE(SAEConfig(d_in=4, d_sae=8, k=2)), tmp_path / "sae")
    with pytest.raises(CheckpointError, match="load_sae"):
        load_foreign(folder)


# --- pickles ----------------------------------------------------------------------------


class Intruder:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("container", ["torch", "torch-legacy", "pickle"])
@pytest.mark.parametrize("where", ["alone", "among tensors"])
def test_code_in_a_pickle_never_runs(container, where, copy_of, tmp_path):
    folder, target = copy_of("dictionary_learning-AutoEncoder"), tmp_path / "intruded"
    tensors = torch.load(folder / "ae.pt")
    content = Intruder(target) if where == "alone" else {**tensors, "bias": Intruder(target)}
    with (folder / "ae.pt").open("wb") as file:
        if container == "pickle":
            pickle.dump(content, file)
        else:
            torch.save(content, file, _use_new_zipfile_serialization=container == "torch")
    with pytest.raises(CheckpointError, match="would run code"):
        load_foreign(folder)
    assert not target.exists()
    with (folder / "ae.pt").open("rb") as file:
        pickle.load(file) if container == "pickle" else torch.load(file, weights_only=False)
    assert target.exists(), "the trap must be one that works"


@pytest.mark.parametrize("content", [torch.nn.Linear(8, 32), [torch.zeros(3)], {"k": 4}])
def test_only_tensors_by_name_are_read(content, copy_of):
    folder = copy_of("dictionary_learning-AutoEncoder")
    torch.save(content, folder / "ae.pt")
    with pytest.raises(CheckpointError, match="state_dict"):
        load_foreign(folder)


# --- writing ----------------------------------------------------------------------------


def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.eye(6) + 0.2 * torch.randn(6, 6, generator=generator)
    return torch.randn(128, 6, generator=generator) @ mixing + 0.5


@torch.no_grad()
def make(architecture: str, **changes: Any) -> SAE:
    k = {"k": 3} if architecture in ("topk", "batchtopk") else {}
    given_here = {"d_in": 6, "d_sae": 20, "reconstruction": "mse", **k, **changes}
    sae = SAE(SAEConfig(architecture=architecture, **given_here), seed=1)
    sae.fit_inputs(rows(), rows()[:, :4] if sae.config.d_out else None)
    generator = torch.Generator().manual_seed(2)
    for name, value in sae.named_parameters():
        if name != "W_dec" or sae.config.decoder_norm == "free":
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    if architecture == "jumprelu":
        sae.threshold.abs_()
    if architecture == "batchtopk":
        sae.threshold.fill_(0.3)
    return sae.eval()


def as_sae_lens_does(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The forward pass of SAELens' inference models, from the files alone."""
    cfg = json.loads((folder / "cfg.json").read_text())
    t = load_file(folder / "sae_weights.safetensors")
    factor = torch.ones(())
    if cfg["normalize_activations"] == "constant_norm_rescale":
        factor = x.shape[-1] ** 0.5 / x.norm(dim=-1, keepdim=True)
    x = x * factor
    if cfg["apply_b_dec_to_input"]:
        x = x - t["b_dec"]
    if cfg["architecture"] == "gated":
        magnitude = x @ (t["W_enc"] * t["r_mag"].exp()) + t["b_mag"]
        f = magnitude.relu() * (x @ t["W_enc"] + t["b_gate"] > 0)
    else:
        h = x @ t["W_enc"] + t["b_enc"]
        f = h.relu() * (h > t["threshold"]) if "threshold" in t else h.relu()
    if cfg["architecture"] == "topk":
        top = f.topk(cfg["k"], dim=-1)
        f = torch.zeros_like(f).scatter(-1, top.indices, top.values)
    return f, (f @ t["W_dec"] + t["b_dec"]) / factor


def as_dictionary_learning_does(folder: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The forward pass of dictionary_learning's dictionaries, from the files alone."""
    trainer = json.loads((folder / "config.json").read_text())["trainer"]
    kind, t = trainer["dict_class"], torch.load(folder / "ae.pt")
    linear = "encoder.weight" in t
    W_enc, W_dec = (
        (t["encoder.weight"].T, t["decoder.weight"].T) if linear else (t["W_enc"], t["W_dec"])
    )
    names = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}
    b_dec = t[names.get(kind, "decoder_bias" if kind == "GatedAutoEncoder" else "b_dec")]
    if kind not in ("AutoEncoderNew", "JumpReluAutoEncoder"):
        x = x - b_dec
    if kind == "GatedAutoEncoder":
        h = x @ W_enc
        f = (t["r_mag"].exp() * h + t["mag_bias"]).relu() * (h + t["gate_bias"] > 0)
    else:
        f = (x @ W_enc + t["encoder.bias" if linear else "b_enc"]).relu()
    if kind == "AutoEncoderTopK":
        top = f.topk(int(t["k"]), dim=-1)
        f = torch.zeros_like(f).scatter(-1, top.indices, top.values)
    elif "threshold" in t:
        f = f * (f > t["threshold"])
    return f, f @ W_dec + b_dec


WRITERS = {
    "sae_lens": as_sae_lens_does,
    "dictionary_learning": as_dictionary_learning_does,
}
WRITABLE: dict[str, dict[str, Any]] = {
    "relu": {"architecture": "relu"},
    "relu-unit": {"architecture": "relu", "decoder_norm": "unit"},
    "topk": {"architecture": "topk"},
    "batchtopk": {"architecture": "batchtopk"},
    "nested": {"architecture": "batchtopk", "prefixes": (5, 20)},
    "nested-k": {"architecture": "batchtopk", "prefixes": (5, 20), "prefix_k": (1, 3)},
    "jumprelu": {"architecture": "jumprelu"},
    "gated": {"architecture": "gated"},
    **{
        f"{name}-{scaling}-{'b_dec' if to_input else 'apart'}": {
            "architecture": name,
            "input_scaling": scaling,
            "apply_b_dec_to_input": to_input,
        }
        for name in ("relu", "topk", "batchtopk", "jumprelu", "gated")
        for scaling, to_input in (("standardize", False), ("whiten", True), ("whiten", False))
    },
}
ONLY_SAE_LENS: dict[str, dict[str, Any]] = {
    "constant-norm": {"architecture": "gated", "input_scaling": "constant_norm_rescale"},
    "transcoder": {"architecture": "relu", "d_out": 4},
    "jumprelu-transcoder": {"architecture": "jumprelu", "d_out": 4, "input_scaling": "standardize"},
    "batchtopk-transcoder": {"architecture": "batchtopk", "d_out": 4},
}


@pytest.mark.parametrize(
    ("library", "name"),
    [(library, name) for library in WRITERS for name in WRITABLE]
    + [("sae_lens", name) for name in ONLY_SAE_LENS],
)
def test_what_is_written_computes_the_same_there_and_back(library, name, tmp_path):
    sae = make(**(WRITABLE | ONLY_SAE_LENS)[name])
    expected = outputs(sae, rows())
    folder = save_foreign(sae, tmp_path / "sae", library)
    assert detect_format(folder) == library
    assert (expected[0] > 0).any()
    for found in (WRITERS[library](folder, rows()), outputs(load_foreign(folder), rows())):
        assert_same(found[0], expected[0])
        assert_same(found[1], expected[1])


def test_layer_norm_stays_a_setting_of_sae_lens(tmp_path):
    sae = make("topk", input_scaling="layer_norm")
    folder = save_foreign(sae, tmp_path / "sae", "sae_lens")
    assert json.loads((folder / "cfg.json").read_text())["normalize_activations"] == "layer_norm"
    same = outputs(load_foreign(folder), rows())
    assert_same(same[1], outputs(sae, rows())[1])


def test_a_free_decoder_is_written_so_that_latents_are_not_rescaled(tmp_path):
    for name, kind in (("relu", "AutoEncoderNew"), ("relu-unit", "AutoEncoder")):
        sae = make("relu", decoder_norm="free" if name == "relu" else "unit", input_scaling="none")
        folder = save_foreign(sae, tmp_path / name, "dictionary_learning")
        trainer = json.loads((folder / "config.json").read_text())["trainer"]
        assert trainer["dict_class"] == kind


def test_prefixes_become_groups(tmp_path):
    folder = save_foreign(make(**WRITABLE["nested"]), tmp_path / "sae", "dictionary_learning")
    assert torch.load(folder / "ae.pt")["group_sizes"].tolist() == [5, 15]
    assert load_foreign(folder).config.prefixes == (5, 20)


def test_batchtopk_becomes_one_threshold_for_all_latents(tmp_path):
    folder = save_foreign(make(**WRITABLE["batchtopk"]), tmp_path / "sae", "sae_lens")
    threshold = load_file(folder / "sae_weights.safetensors")["threshold"]
    torch.testing.assert_close(threshold, torch.full((20,), 0.3))


def test_the_dtype_is_kept_where_the_library_can(tmp_path):
    sae = make("topk").double()
    assert load_foreign(save_foreign(sae, tmp_path / "a", "sae_lens")).W_dec.dtype == torch.float64
    # dictionary_learning computes in float32, whatever it is given.
    assert (
        load_foreign(save_foreign(sae, tmp_path / "b", "dictionary_learning")).W_dec.dtype
        == torch.float32
    )


def test_the_model_that_is_written_stays_as_it_is(tmp_path):
    sae = make("gated", input_scaling="standardize", apply_b_dec_to_input=False)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    for library in WRITERS:
        save_foreign(sae, tmp_path / library, library)
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items())


def unset_threshold() -> SAE:
    sae = make("batchtopk")
    sae.threshold.fill_(-1.0)
    return sae


@torch.no_grad()
def negative_threshold() -> SAE:
    sae = make("jumprelu")
    sae.threshold.fill_(-0.5)
    return sae


@pytest.mark.parametrize(
    ("make_it", "says"),
    [
        (lambda: make("leaky_relu"), "architecture = 'leaky_relu'"),
        (lambda: make("topk", decoder="mlp"), "decoder = 'mlp'"),
        (lambda: make("topk", output="softplus"), "output = 'softplus'"),
        (lambda: SAE(SAEConfig(d_in=6, d_sae=20, seq_len=3)), "seq_len = 3"),
        (lambda: make("gated", d_out=4), "d_out = 4"),
        (unset_threshold, "calibrate_threshold"),
        (negative_threshold, "threshold = '-0.5'.*clamp"),
    ],
)
@pytest.mark.parametrize("library", WRITERS)
def test_what_a_library_lacks_is_refused_by_name(library, make_it, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        save_foreign(make_it(), tmp_path / "sae", library)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scaling", ["sqrt", "layer_norm", "constant_norm_rescale"])
def test_a_scaling_that_can_not_fold_is_refused(scaling, tmp_path):
    sae = SAE(SAEConfig(d_in=6, d_sae=20, architecture="relu", input_scaling=scaling))
    sae.fit_inputs(rows().abs())
    with pytest.raises(ConfigError, match=f"input_scaling = '{scaling}'"):
        save_foreign(sae, tmp_path / "sae", "dictionary_learning")


def test_a_library_that_is_only_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="sparsify: its files are read here, not written"):
        save_foreign(make("topk"), tmp_path / "sae", "sparsify")
    with pytest.raises(ConfigError, match="did you mean 'sae_lens'"):
        save_foreign(make("topk"), tmp_path / "sae", "saelens")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = save_foreign(make(**WRITABLE["topk"]), tmp_path / "sae", "sae_lens")
    (folder / "stray").touch()
    monkeypatch.setattr("saebook.models.formats.sae_lens.save_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_foreign(make(**WRITABLE["relu"]), folder, "sae_lens")
    assert load_foreign(folder).config.architecture == "topk"
    monkeypatch.undo()
    save_foreign(make(**WRITABLE["relu"]), folder, "sae_lens")
    assert load_foreign(folder).config.architecture == "relu"
    assert sorted(file.name for file in tmp_path.rglob("*")) == [
        "cfg.json",
        "sae",
        "sae_weights.safetensors",
    ]
