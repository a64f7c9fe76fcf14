"""Windows of several bins, and outputs that are not the input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from saebook.data.store import ExampleStore, StoreWriter
from saebook.errors import DataError
from saebook.evaluation import decoder_directions, evaluate
from saebook.metrics import fvu
from saebook.models import SAE, SAEConfig
from saebook.training import TrainConfig, fit
from saebook.training.examples import as_batch, training_examples

TRAIN = TrainConfig(n_steps=150, batch_size=128, device="cpu", retire_at=None)
D_IN, SEQ_LEN = 6, 3


def examples(n: int = 600, d_in: int = D_IN, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.rand(8, d_in, generator=torch.Generator().manual_seed(99))
    sparse = torch.rand(n, 8, generator=generator) * (torch.rand(n, 8, generator=generator) < 0.2)
    return sparse @ dictionary


def windows_of(x: torch.Tensor) -> torch.Tensor:
    return x.unfold(0, SEQ_LEN, 1).transpose(1, 2).contiguous()  # [n - 2, 3, d_in]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ExampleStore:
    """Twelve trials of ten bins, each told from the others by its first unit."""
    path = tmp_path_factory.mktemp("windows") / "store"
    x = examples(120).numpy()
    x[:, 0] = np.repeat(np.arange(12), 10)
    splits = np.repeat(["train"] * 8 + ["validation"] * 2 + ["test"] * 2, 10)
    features = pd.DataFrame({"unit": range(D_IN)})
    with StoreWriter(path, kind="activations", features=features) as writer:
        writer.add(x, session="a", trial=np.repeat(np.arange(12), 10), split=splits)
    return ExampleStore.open(path)


# --- the last bin -----------------------------------------------------------------------


def test_trained_on_the_last_bin_and_not_judged_by_the_first():
    """Judged by the first bin of its windows, a model of the last looked worse than the mean."""
    x = examples()
    windows = windows_of(x)
    config = SAEConfig(d_in=D_IN, d_sae=24, k=3, seq_len=SEQ_LEN)
    run = fit(config, windows, TRAIN, validation=windows, progress=False)
    reconstruction = run.sae(windows)[0].detach()
    assert reconstruction.shape == (598, D_IN)
    by_bin = [float(fvu(windows[:, i], reconstruction)) for i in range(SEQ_LEN)]
    assert by_bin[2] < 0.3 and min(by_bin[:2]) > 1.0
    card = evaluate(run.sae, windows)
    assert card.fvu == pytest.approx(by_bin[2], rel=1e-4)
    assert run.card["fvu"] == pytest.approx(by_bin[2], rel=1e-4)
    assert card.n_examples == 598


def test_initial_weights_are_those_of_one_bin_on_the_last():
    windows = windows_of(examples())
    shared = {"input_scaling": "none", "k": 3, "architecture": "topk"}
    one = SAE(SAEConfig(d_in=D_IN, d_sae=24, **shared), seed=5)
    several = SAE(SAEConfig(d_in=D_IN, d_sae=24, seq_len=SEQ_LEN, **shared), seed=5)
    one.fit_inputs(windows[:, -1])
    several.fit_inputs(windows)
    rows = several.encoder_rows.reshape(24, SEQ_LEN, D_IN)
    assert torch.allclose(rows[:, -1], one.encoder_rows, atol=1e-6)
    assert not rows[:, :-1].any()
    assert torch.equal(several.W_dec, one.W_dec)
    assert torch.allclose(several.encode(windows), one.encode(windows[:, -1]), atol=1e-5)
    assert torch.allclose(several(windows)[0], one(windows[:, -1])[0], atol=1e-5)


def test_all_bins_are_reconstructed_and_judged_where_all_are_the_target():
    windows = windows_of(examples())
    config = SAEConfig(d_in=D_IN, d_sae=48, k=8, seq_len=SEQ_LEN, target="all")
    run = fit(config, windows, TRAIN, progress=False)
    reconstruction = run.sae(windows)[0].detach()
    assert reconstruction.shape == windows.shape
    whole = float(fvu(windows.reshape(-1, D_IN), reconstruction.reshape(-1, D_IN)))
    assert evaluate(run.sae, windows).fvu == pytest.approx(whole, rel=1e-4)
    assert all(float(fvu(windows[:, i], reconstruction[:, i])) < 0.5 for i in range(SEQ_LEN))
    assert run.sae.W_dec.shape == (48, SEQ_LEN * D_IN)
    assert decoder_directions(run.sae).shape == (48, SEQ_LEN * D_IN)


@pytest.mark.parametrize("target", ["last", "all"])
def test_a_scale_per_example_is_a_scale_per_bin(target):
    windows = windows_of(examples()) + 0.1
    config = SAEConfig(
        d_in=D_IN,
        d_sae=24,
        architecture="topk",
        k=3,
        seq_len=SEQ_LEN,
        target=target,
        input_scaling="constant_norm_rescale",
    )
    run = fit(config, windows, TRAIN, progress=False)
    assert run.card["fvu"] < 0.8
    brighter = windows.clone()
    brighter[:, -1] *= 3
    latents = run.sae.encode(windows)
    assert torch.allclose(run.sae.encode(brighter), latents, atol=1e-3)
    out, wider = (run.sae.decode(latents, run.sae.context(x)) for x in (windows, brighter))
    last = (out, wider) if target == "last" else (out[:, -1], wider[:, -1])
    assert torch.allclose(3 * last[0], last[1], atol=1e-3)


def test_windows_of_the_wrong_shape_are_refused():
    config = SAEConfig(d_in=D_IN, d_sae=24, k=3, seq_len=SEQ_LEN)
    with pytest.raises(DataError, match=r"needs \[n, 3, 6\]"):
        fit(config, examples(), TRAIN, progress=False)
    with pytest.raises(DataError, match="seq_len, d_in = 3, 6"):
        SAE(config).encode(torch.zeros(5, 2, D_IN))


# --- windows of a store -----------------------------------------------------------------


def test_windows_of_a_store_never_cross_trials_or_splits(store):
    config = SAEConfig(d_in=D_IN, d_sae=24, k=3, seq_len=SEQ_LEN)
    rows, (split, held_out) = training_examples(store, None, config)
    assert split == "validation"
    assert rows.shape == (8 * (10 - SEQ_LEN + 1), SEQ_LEN, D_IN)
    assert held_out.shape == (2 * (10 - SEQ_LEN + 1), SEQ_LEN, D_IN)
    trials = rows[:, :, 0]
    assert (trials == trials[:, :1]).all() and set(trials.flatten().tolist()) == set(range(8))
    assert set(held_out[:, :, 0].flatten().tolist()) == {8.0, 9.0}


def test_a_store_is_trained_on_and_scored_in_windows(store):
    config = SAEConfig(d_in=D_IN, d_sae=24, k=3, seq_len=SEQ_LEN)
    run = fit(config, store, TrainConfig(n_steps=20, device="cpu"), progress=False)
    assert run.card["split"] == "validation" and run.card["n_examples"] == 16
    card = evaluate(run.sae, store, split="test")
    assert card.n_examples == 16
    x = store.tensor(split="test").reshape(2, 10, D_IN)
    windows = torch.cat([windows_of(trial) for trial in x])
    assert card.fvu == pytest.approx(evaluate(run.sae, windows).fvu, rel=1e-5)


# --- transcoders ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    x = examples()
    mixing = torch.randn(D_IN, 4, generator=torch.Generator().manual_seed(7))
    return x, x @ mixing


def test_a_transcoder_learns_its_targets_and_is_judged_by_them(pair):
    config = SAEConfig(d_in=D_IN, d_sae=24, k=4, d_out=4)
    run = fit(config, pair, TRAIN, validation=pair, progress=False)
    x, target = pair
    reconstruction, latents, _ = run.sae(x, target)
    assert reconstruction.shape == (600, 4) and latents.shape == (600, 24)
    expected = float(fvu(target, reconstruction.detach()))
    assert expected < 0.5
    assert run.card["fvu"] == pytest.approx(expected, rel=1e-4)
    assert evaluate(run.sae, pair, batch_size=100).fvu == pytest.approx(expected, rel=1e-4)
    assert decoder_directions(run.sae).shape == (24, 4)


def test_fractional_targets_of_whole_numbers_keep_their_fractions():
    """Targets took the type of their inputs, so that 0.7 beside a count became 0."""
    counts = torch.randint(0, 4, (50, D_IN), generator=torch.Generator().manual_seed(0))
    target = torch.rand(50, 4, generator=torch.Generator().manual_seed(1))
    config = SAEConfig(d_in=D_IN, d_sae=24, d_out=4)
    rows, _ = training_examples((counts.to(torch.uint8), target), None, config)
    batch = as_batch(rows, config)
    assert batch.target is not None and torch.equal(batch.target, target)
    assert torch.equal(batch.x, counts.float())


@pytest.mark.parametrize("target", ["last", "all"])
def test_a_transcoder_of_windows_has_a_target_per_window_or_per_bin(pair, target):
    windows = windows_of(pair[0])
    wanted = windows_of(pair[1])
    wanted = wanted[:, -1] if target == "last" else wanted
    config = SAEConfig(d_in=D_IN, d_sae=24, k=6, d_out=4, seq_len=SEQ_LEN, target=target)
    run = fit(config, (windows, wanted), TRAIN, progress=False)
    reconstruction = run.sae(windows, wanted)[0].detach()
    assert reconstruction.shape == wanted.shape
    expected = float(fvu(wanted.reshape(-1, 4), reconstruction.reshape(-1, 4)))
    assert expected < 0.8
    assert run.card["fvu"] == pytest.approx(expected, rel=1e-4)
    assert evaluate(run.sae, (windows, wanted)).fvu == pytest.approx(expected, rel=1e-4)


def test_targets_that_do_not_fit_are_refused(pair):
    x, target = pair
    config = SAEConfig(d_in=D_IN, d_sae=24, k=4, d_out=4)
    sae = SAE(config)
    sae.fit_inputs(x, target)
    with pytest.raises(DataError, match=r"give its targets \(600, 4\).*found none"):
        sae(x)
    with pytest.raises(DataError, match=r"found shape \(600, 3\)"):
        sae(x, target[:, :3])
    with pytest.raises(DataError, match=r"found shape \(599, 4\)"):
        sae(x, target[1:])
    with pytest.raises(DataError, match="600 inputs and 599 targets"):
        fit(config, (x, target[1:]), TRAIN, progress=False)
    with pytest.raises(DataError, match=r"targets of shape \(600, 3\).*need \[n, 4\]"):
        fit(config, (x, target[:, :3]), TRAIN, progress=False)
    with pytest.raises(DataError, match="given a pair of tensors"):
        fit(config, x, TRAIN, progress=False)
    with pytest.raises(DataError, match="600 inputs and 599 targets"):
        evaluate(sae.train(), (x, target[1:]))
    plain = SAE(SAEConfig(d_in=D_IN, d_sae=24))
    with pytest.raises(DataError, match="set d_out"):
        plain.fit_inputs(x, target)
    with pytest.raises(DataError, match="given a pair of tensors"):
        fit(SAEConfig(d_in=D_IN, d_sae=24), pair, TRAIN, progress=False)
