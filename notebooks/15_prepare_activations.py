# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How do texts become activations that an SAE can be trained on?
#
# > A language model is read at one place while it reads a text. What is kept, what is left out and
# > why, what it costs in bytes and seconds, and how a collection survives being killed.

# %% [markdown]
# **What you will learn.** What an activation is and where in a model it is read; why the first position of
# every context is thrown away; how documents are held out; what the disk has to hold before a
# collection starts; that an interrupted collection ends with the bytes of an undisturbed one; and
# what the flags of an older training script mean here.
#
# **What it needs.** Nothing: a small model is trained on two shipped public-domain texts, once, and kept.
# `model = "smollm2"` takes SmolLM2-135M from its package, `"EleutherAI/pythia-70m"` or any other
# causal model comes from the Hugging Face hub or a folder; `text` takes a file of your own.
#
# **How long.** HOWLONG

# %% tags=["parameters"]
model: str = "small"  # small, smollm2, a folder, or a name on the hub such as EleutherAI/pythia-70m
text: str = "moby_dick"  # moby_dick, state_of_the_union, a file, a folder, or a data set of the hub
target_layer: int = 1  # block whose output is read, from 0
site: str = "residual"  # residual, mlp or attention
context: int = 128  # tokens per context
model_batch_size: int = 16  # contexts per forward pass
contexts_per_document: int = 4  # of each document, its first; 0: all of it
n_tokens: int = 30000  # positions to keep
num_shards: int = 4  # files to divide them among
store_dtype: str = "fp32"  # fp32 or bf16
skip_first: int = 1  # positions left out at the beginning of each context
max_norm_ratio: float = (
    10.0  # positions with longer activations than this many medians are left out
)
n_tokens_interrupted: int = 6000  # positions of the collection that is interrupted on purpose
n_rounds: int = 3  # rounds of the comparison of speed
d_model: int = 0  # width that the model must have; 0: whatever it has
d_sae: int = 256  # latents of the SAE
l1_coeff: float = 0.03  # weight of the L1 term, with the error averaged over d_model
lr: float = 3e-3  # peak learning rate
batch_size: int = 512  # rows per step
epochs: float = 8.0  # passes over the training rows
normalize_activations: str = "expected_average_only_in"  # or layer_norm, none
apply_b_dec_to_input: bool = True  # subtract b_dec from the input of the encoder
seed: int = 0  # of hold-out, weights and batches

# %%
from saebook.notebook import open_chapter

chapter = open_chapter("15_prepare_activations", globals())

# %%
import itertools
import shutil
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from matplotlib.ticker import MaxNLocator

from saebook.errors import ParameterError
from saebook.evaluation import control_table, evaluate
from saebook.language import (
    DiskBudget,
    DocumentSplits,
    MaskRule,
    Site,
    blocks,
    collect_activations,
    language_model,
    read_activations,
    small_model_record,
    text_source,
    token_batches,
    unfinished,
)
from saebook.losses import lambda_equivalent
from saebook.models import SAEConfig
from saebook.plots.style import GREY, PAGE_WIDTH, PALETTE
from saebook.training import TrainConfig, fit

# %% [markdown]
# ## A model and a text
#
# A causal language model reads tokens from left to right and guesses each next one. Inside, every token has
# one vector, the *residual stream*, of `d_model` numbers; each block reads it and adds to it. Those
# vectors are the **activations**: for a neuroscientist, a token is a time bin, a dimension of the stream a
# unit, a document a trial.

# %%
lm = language_model(model, dtype=store_dtype, device=chapter.device)
if d_model and d_model != lm.d_model:
    raise ParameterError(f"d_model = {d_model}, but {lm.name} has {lm.d_model}; set it to 0")
n_weights = sum(weight.numel() for weight in lm.model.parameters())
print(f"{lm.name}: {lm.n_layers} blocks, d_model {lm.d_model}, {n_weights:,} weights, {lm.dtype}")

source = text_source(text)
first = next(document for document in source.documents() if document.text.strip())
print(f"{source.name}, document {first.number}: {first.text[:150]!r} …")

# %% [markdown]
# The small model is a GPT-NeoX of three blocks that was trained on the training documents of both shipped texts.
# It is no good model, but one that has learnt from context: its loss lies clearly below the entropy of
# single tokens, which is the best that a guess without context can reach.

# %%
if model == "small":
    record = small_model_record()
    fig, ax = plt.subplots(figsize=(PAGE_WIDTH * 0.62, 2.4))
    ax.plot(record["losses"], color=PALETTE["blue"], lw=1, label="training batches")
    ax.axhline(
        record["unigram_entropy"], color=GREY, ls="--", label="single tokens (unigram entropy)"
    )
    ax.axhline(record["held_out_loss"], color=PALETTE["vermillion"], label="held-out documents")
    ax.set(xlabel="step", ylabel="loss (nats per token)")
    ax.legend(frameon=False)
    chapter.save_figure(fig, "small_model")
    plt.show()
    gain = record["unigram_entropy"] - record["held_out_loss"]
    print(
        f"held-out loss {record['held_out_loss']:.2f}, unigram entropy "
        f"{record['unigram_entropy']:.2f}: {gain:.2f} nats per token learnt from context"
    )
    assert gain > 0.5
else:
    print(f"{lm.name} was trained elsewhere: no curve to show")

# %% [markdown]
# ## Contexts
#
# A document is cut into contexts of `context` tokens; a context never holds two documents, and positions count
# on from context to context. Of long documents only the first few contexts are taken, so that the same
# number of tokens comes from more documents. Short documents stay short: batches are padded, and padding is left
# out again below.

# %%
cutting = {
    "context": context,
    "batch_size": model_batch_size,
    "contexts_per_document": contexts_per_document or None,
}
batches = token_batches(lm, source, **cutting)
batch = next(batches)
pieces = [repr(lm.tokenizer.decode([token])) for token in batch.input_ids[0, :8].tolist()]
pd.DataFrame(
    {
        "token": pieces,
        "id": batch.input_ids[0, :8].numpy(),
        "document": batch.document[0, :8].numpy(),
        "position": batch.position[0, :8].numpy(),
    }
)

# %% [markdown]
# ## Where it is read
#
# A *site* is a block and one of three outputs: the residual stream behind the block, or what its attention or its
# MLP adds. A forward hook copies it and ends the pass there: the blocks above are never
# computed.

# %%
place = Site(target_layer, site)
print(
    f"{place.name}: {type(place.module_in(lm.model)).__name__}, "
    f"{target_layer + 1} of {len(blocks(lm.model))} blocks are run"
)
inputs = {name: value.to(lm.device) for name, value in batch.inputs().items()}
activations = read_activations(lm.model, inputs, place)
print(f"activations {tuple(activations.shape)} [contexts, positions, d_model], {activations.dtype}")

# %% [markdown]
# The same numbers come out of transformers' own `output_hidden_states`, which runs the whole model and keeps every
# layer. Its last entry has the final norm applied; the site does not.

# %%
with torch.no_grad():
    states = lm.model(**inputs, output_hidden_states=True).hidden_states
real = batch.attention_mask.bool().to(lm.device)
largest_difference = None
if site == "residual" and target_layer + 1 < lm.n_layers:
    difference = (activations[real] - states[target_layer + 1][real]).abs().max()
    largest_difference = float(difference / activations[real].abs().max())
    print(
        f"largest difference from hidden_states[{target_layer + 1}]: {largest_difference:.1g} of "
        "the largest activation"
    )
    assert largest_difference < (1e-5 if lm.dtype == torch.float32 else 2e-2)
else:
    print("compared for the residual stream below the last block only; nothing to compare here")

# %% [markdown]
# ## What is left out, and why
#
# Attention weights sum to one, so a head that has nothing to look at must still look somewhere: models learn to
# look at the first token, whose activation grows until nothing else in the context compares. In trained models
# of usual size it is a hundred times as long as any other. Squared, one such row weighs as much as
# ten thousand others: an SAE would spend its latents on it. The rule below is recorded in the store, and
# splicing and scoring use the same one.

# %%
rule = MaskRule(skip_first=skip_first, max_norm_ratio=max_norm_ratio)
norms_by_layer = [
    torch.where(
        real, read_activations(lm.model, inputs, Site(layer)).float().norm(dim=-1), torch.nan
    )
    for layer in range(lm.n_layers)
]  # each [contexts, positions]
norms = activations.float().norm(dim=-1).cpu()  # [contexts, positions]
keep = rule.keep(batch, activations).cpu()
typical = norms[keep].median()
ratios = [float(layer[:, 0].nanmedian() / layer[:, 1:].nanmedian()) for layer in norms_by_layer]

fig, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.6), layout="constrained")
positions = np.arange(norms.shape[1])
shown = np.where(batch.attention_mask.bool().numpy(), norms.numpy(), np.nan)
axes[0].plot(positions + 1, shown.T, ".", color=GREY, ms=2)
out = np.where(batch.attention_mask.bool().numpy() & ~keep.numpy(), norms.numpy(), np.nan)
axes[0].plot(positions + 1, out.T, "x", color=PALETTE["vermillion"], ms=4)
axes[0].axhline(max_norm_ratio * typical, color=PALETTE["vermillion"], lw=0.8, ls="--")
axes[0].set(
    xscale="log",
    yscale="log",
    xlabel="place in the context, from 1",
    ylabel=f"norm, {place.name}",
    title="x: left out",
)
axes[0].xaxis.set_major_formatter("{x:g}")
axes[0].yaxis.set_minor_formatter("")
axes[1].plot(range(lm.n_layers), ratios, "o-", color=PALETTE["blue"], ms=3)
axes[1].axhline(1, color=GREY, lw=0.8)
axes[1].axvline(target_layer, color=PALETTE["orange"], lw=0.8, ls="--")
axes[1].set(
    yscale="log",
    ylim=(min(0.3, *ratios), max(30, 2 * max(ratios))),
    xlabel="block",
    ylabel="norm of the first / of others",
    title="dashed: the block that is read",
)
axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
axes[1].yaxis.set_major_formatter("{x:g}")
axes[1].yaxis.set_minor_formatter("")
chapter.save_figure(fig, "norms_by_position")
plt.show()
sink_ratio = float(norms[:, 0].median() / typical)
print(
    f"first place: {sink_ratio:.1f} times the typical norm at {place.name}; largest over all "
    f"blocks: {max(ratios):.0f} times"
)
print(
    "an attention sink"
    if max(ratios) > 10
    else "no attention sink: this model is too small, or "
    "was trained too briefly, to have grown one; the rule is the same"
)

# %% [markdown]
# ## Held out by document
#
# Neighbouring tokens tell much about each other, so a held-out token beside a training token would be no test. Whole
# documents go to training, validation or test, as they come by: a stream has no known end.

# %%
splits = DocumentSplits((0.7, 0.15, 0.15), seed)
pd.DataFrame({"split": [splits.of(number) for number in range(10)]}).rename_axis("document").T

# %% [markdown]
# ## Disk budget
#
# Rows times width times bytes, before anything is written; a collection that can't fit is refused. The second
# line is the scale of the older script's setting, layer 45 of a model of width 7,168 in four shards.

# %%
print(DiskBudget.of(n_tokens, lm.d_model, store_dtype, num_shards=num_shards))
print(DiskBudget.of(10**6, 7168, "bf16", num_shards=4))

# %% [markdown]
# ## Interrupted on purpose
#
# Shards appear one by one in a folder called `.partial`, with a cursor beside them: the document and the context
# behind the last row that is safe. Here a hook on the model raises `KeyboardInterrupt`, as the stop button does;
# the tests do the same with `kill -9` at every kind of point.

# %%
folder = chapter.path / "interrupted"
shutil.rmtree(folder, ignore_errors=True)
settings = {
    "layer": target_layer,
    "kind": site,
    "n_tokens": n_tokens_interrupted,
    "num_shards": 3,
    **cutting,
    "dtype": store_dtype,
    "mask": rule,
    "seed": seed,
}
passes = itertools.count(1)
n_passes = max(2, n_tokens_interrupted // (context * model_batch_size) // 2)


def stop_halfway(module, given):
    if next(passes) == n_passes:
        raise KeyboardInterrupt


handle = blocks(lm.model)[0].register_forward_pre_hook(stop_halfway)
try:
    collect_activations(lm, source, out=folder / "store", **settings)
    print("the text was too short to interrupt")
except KeyboardInterrupt:
    print(f"interrupted at pass {n_passes}; unfinished: {unfinished(folder / 'store')}")
finally:
    handle.remove()
sorted(path.name for path in folder.glob("store*/*"))

# %% [markdown]
# The same call goes on behind the last safe row. Beside an undisturbed collection, every file has the same bytes.

# %%
resumed = collect_activations(lm, source, out=folder / "store", **settings)
undisturbed = collect_activations(lm, source, out=folder / "whole", progress=False, **settings)
files = sorted(path.relative_to(resumed.path) for path in resumed.path.rglob("*") if path.is_file())
same = [
    (resumed.path / file).read_bytes() == (undisturbed.path / file).read_bytes() for file in files
]
print(f"{sum(same)} of {len(files)} files are the same, byte by byte")
assert all(same)
shutil.rmtree(folder)

# %% [markdown]
# ## The collection
#
# Kept in `data/activations/` under a name made of all its settings, so every chapter that asks for the same one opens
# it.

# %%
store = chapter.activations(
    lm,
    text=text,
    layer=target_layer,
    kind=site,
    n_tokens=n_tokens,
    num_shards=num_shards,
    **cutting,
    dtype=store_dtype,
    mask=rule,
    seed=seed,
)
print(store)
counts = store.provenance["counts"]
pd.Series(
    {
        **{k: v for k, v in counts.items() if k != "left_out"},
        **{f"left out: {k}": v for k, v in counts["left_out"].items()},
    }
).to_frame("number")

# %%
index = store.index
index[["row", "split", "segment", "document", "position", "token"]].head()

# %% [markdown]
# ## What the rows are
#
# Documents differ much in length, so shares of rows differ from shares of documents. A few tokens make up much of any
# text: a latent that fires for one of them alone is easily taken for a discovery.

# %%
per_split = index.groupby("split", observed=True).agg(
    documents=("document", "nunique"), rows=("row", "size")
)
frequency = index["token"].value_counts()
share = frequency.cumsum() / len(index)
half = int((share < 0.5).sum()) + 1

fig, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.5), layout="constrained")
axes[0].plot(np.arange(1, len(frequency) + 1), frequency / len(index), color=PALETTE["blue"])
axes[0].set(xscale="log", yscale="log", xlabel="token, by rank", ylabel="share of rows")
axes[0].xaxis.set_major_formatter("{x:g}")
axes[1].hist(index["position"], bins=40, color=PALETTE["sky"])
axes[1].set(xlabel="position in the document (tokens)", ylabel="rows")
chapter.save_figure(fig, "tokens_and_positions")
plt.show()
common = [repr(lm.tokenizer.decode([token])) for token in frequency.index[:8]]
print(
    f"{len(frequency)} different tokens; {half} of them make up half of the rows; the most "
    f"common: {', '.join(common)}"
)
display(per_split)

# %% [markdown]
# ## What it costs in time
#
# Beside a bare forward pass that ends at the same block, cutting the text, masking, labelling and writing should cost
# little. Both are timed in turn on the same contexts. The smaller the model, the less of the time is its own:
# for the small one the fixed costs of a store show; `reports/results/collection.json` has SmolLM2.

# %%
timed = [b for b, _ in zip(token_batches(lm, source, **cutting), range(4))]


def read(one):
    return read_activations(lm.model, {k: v.to(lm.device) for k, v in one.inputs().items()}, place)


# As many rows as the rule keeps of these batches: one more would take another pass.
n_kept = sum(int(rule.keep(one, read(one)).sum()) for one in timed)
same_passes = {**settings, "n_tokens": n_kept, "num_shards": 1, "progress": False}
speeds = []
for _ in range(n_rounds):
    began = time.perf_counter()
    for one in timed:
        read(one)
    bare = time.perf_counter() - began
    began = time.perf_counter()
    collect_activations(lm, source, out=folder / "timed", **same_passes)
    speeds.append((n_kept / bare, n_kept / (time.perf_counter() - began)))
    shutil.rmtree(folder)
bare_speed, collecting_speed = np.median(speeds, axis=0)
print(
    f"bare forward {bare_speed:,.0f} positions/s, collecting {collecting_speed:,.0f} positions/s "
    f"({collecting_speed / bare_speed:.0%}), opening and closing the store included"
)

# %% [markdown]
# ## The flags of an older script
#
# One of the working notes that this handbook grew from trains its SAE by
# `train_sae.py --num_shards 4 --target_layer 45 --d_model 7168 --d_sae 57344 --l1_coeff 5e-3 --lr 3e-4 --batch_size
# 4096 --epochs 3 --normalize_activations expected_average_only_in --apply_b_dec_to_input`. Each is a parameter of this chapter,
# and an option of `python -m saebook collect`. Two of them don't mean what the note says:
#
# * **`expected_average_only_in` is a scale, not a centring.** It multiplies all activations by one number, so that their
#   mean norm is √d_model. The note calls it "center activations by running mean"; what does that job is `b_dec`, which
#   begins at the mean and is subtracted by `apply_b_dec_to_input`.
# * **`l1_coeff` has no meaning without its reductions.** With the squared error averaged over `d_model` (its usual
#   form in such scripts; the note doesn't say) it is `d_model` times as large here, where the error is summed.

# %%
scalings = {
    "expected_average_only_in": "scale_mean_norm",
    "layer_norm": "layer_norm",
    "none": "none",
}
if normalize_activations not in scalings:
    raise ParameterError(
        f"normalize_activations = {normalize_activations!r}: give one of {', '.join(scalings)}"
    )
coefficient = lambda_equivalent(l1_coeff, d_in=store.d_in, error="mean")
meaning = [
    ("num_shards", num_shards, "collect_activations(num_shards=…)", "files; a document is not cut"),
    ("target_layer", target_layer, "Site(layer)", "block from 0: hidden_states[layer + 1]"),
    ("d_model", store.d_in, "SAEConfig(d_in=…)", "the model decides; checked"),
    ("d_sae", d_sae, "SAEConfig(d_sae=…)", f"{d_sae / store.d_in:g} times the width"),
    (
        "l1_coeff",
        l1_coeff,
        f"sparsity_coefficient={coefficient:.3g}",
        "lambda_equivalent(error='mean')",
    ),
    ("lr", lr, "TrainConfig(learning_rate=…)", "peak; rises for a tenth, then falls"),
    ("batch_size", batch_size, "TrainConfig(batch_size=…)", "rows, shuffled over documents"),
    (
        "epochs",
        epochs,
        "TrainConfig(n_epochs=…)",
        f"{epochs * per_split['rows'].get('train', 0) / batch_size:.0f} steps",
    ),
    (
        "normalize_activations",
        normalize_activations,
        f"input_scaling={scalings[normalize_activations]!r}",
        "one factor",
    ),
    (
        "apply_b_dec_to_input",
        apply_b_dec_to_input,
        "the same",
        "centring, learnt; begins at the mean",
    ),
]
with pd.option_context("display.max_colwidth", 60):
    display(
        pd.DataFrame(meaning, columns=["flag", "value", "here", "what it means"]).set_index("flag")
    )

# %% [markdown]
# ## A first SAE on them
#
# Short, to see that the store trains; scored on documents that it never saw, beside its controls at the same number
# of active latents. Chapter 55 does this in earnest.

# %%
config = SAEConfig(
    d_in=store.d_in,
    d_sae=d_sae,
    architecture="relu",
    sparsity_coefficient=coefficient,
    input_scaling=scalings[normalize_activations],
    apply_b_dec_to_input=apply_b_dec_to_input,
)
train = TrainConfig(n_epochs=epochs, batch_size=batch_size, learning_rate=lr, device=chapter.device)
run = fit(config, store, train, out=chapter.checkpoints / "sae", seed=seed)
for name, finding in run.findings.items():
    print(f"finding {name}: {finding}")

# %%
held_out = next((part for part in ("test", "validation") if part in per_split.index), "train")
if held_out != "test":
    print(f"no test documents: too few documents; scored on {held_out}")
sae = run.sae.cpu()
card = evaluate(sae, store, split=held_out)
controls = control_table(sae, store, card=card, split=held_out, seeds=range(2))
controls = controls.drop(index="raw units", errors="ignore").rename(
    index={"SAE on shuffled units": "SAE on shuffled dimensions"}
)
display(controls[["fvu", "l0", "n_seeds"]].round(3))
print(
    f"{held_out}: FVU {card.fvu:.3f}, L0 {card.l0:.1f} of {d_sae}, dead {card.dead_fraction:.1%}, "
    f"cosine {card.cosine:.3f}, L2 ratio {card.l2_ratio:.3f}"
)

# %% [markdown]
# ## How do texts become activations?
#
# By reading one place of a model, leaving out what is no text or no typical activation, and writing down where every
# row came from. The lines below are what this run found. A low FVU alone says little here: the stream of a small model has few
# directions, and principal components, which are chosen for it, can need fewer of them than latents that are to
# be sparse. Sparse latents are judged by what they mean, which is the matter of chapter 55.

# %%
fvu = controls["fvu"]
lines = [
    (
        "rows equal output_hidden_states",
        "not compared" if largest_difference is None else f"to {largest_difference:.1g}",
    ),
    ("interrupted = undisturbed", f"{sum(same)} of {len(files)} files"),
    ("norm at the first place", f"{max(ratios):.0f} times the others, at the worst block"),
    (
        "left out",
        f"{sum(counts['left_out'].values()):,} of {counts['tokens']:,} tokens, with padding",
    ),
    ("SAE on held-out documents", f"FVU {card.fvu:.3f} at L0 {card.l0:.0f}"),
    ("random dictionary, PCA", f"FVU {fvu['random dictionary']:.3f}, {fvu['PCA']:.3f}"),
    ("better than PCA at this L0", "yes" if fvu["SAE"] < fvu["PCA"] else "no"),
]
chapter.save_metrics(
    {
        "n_rows": len(store),
        "fvu": card.fvu,
        "l0": card.l0,
        "pca_fvu": fvu["PCA"],
        "random_dictionary_fvu": fvu["random dictionary"],
        "dead_fraction": card.dead_fraction,
        "sink_ratio": max(ratios),
        "left_out": counts["left_out"],
        "documents": counts["documents"],
        "resumed_files_same": sum(same),
        "largest_difference": largest_difference,
        "tokens_for_half_the_rows": half,
        "findings": run.findings,
    }
)
pd.DataFrame(lines, columns=["", "found"]).set_index("")

# %% [markdown]
# **Next.** Set `text` to a file of yours, `model = "smollm2"`, or another `target_layer`; chapter 55 trains and scores SAEs on
# such a store with the SAE spliced into the model.
