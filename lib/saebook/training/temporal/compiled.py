"""Compiled loops of the contrastive term over the few active latents of each row.

As in :mod:`saebook.models.sparse.compiled`, each loop releases the interpreter and works on rows
``first`` to ``last`` alone. Rows are held by their active entries: ``values`` and ``columns``
[n_entries], row r being those from ``starts[r]`` to ``starts[r + 1]``.
"""

from __future__ import annotations

import numpy as np

from saebook.models.sparse.compiled import BLOCK, _compile


@_compile(fast=True)
def count_active(x, first, last, counts):
    """Write how many entries of each row of x [n, width] differ from zero, to counts [n]."""
    for r in range(first, last):
        row = x[r]
        n = np.int32(0)
        for i in range(len(row)):
            n += np.int32(row[i] != 0)
        counts[r] = n


@_compile(fast=True)
def take_active(x, first, last, starts, values, columns):
    """Write the entries of x [n, width] that differ from zero, in the order of columns."""
    width = x.shape[1]
    n_blocks = width // BLOCK
    for r in range(first, last):
        row = x[r]
        n, end = starts[r], starts[r + 1]
        for block in range(n_blocks + 1):
            if n == end:
                break
            begin = block * BLOCK
            found = np.int32(1)
            if block < n_blocks:
                found = np.int32(0)
                for i in range(BLOCK):  # of known length, it runs in vector instructions
                    found += np.int32(row[begin + i] != 0)
            if found > 0:
                for i in range(begin, min(begin + BLOCK, width)):
                    if row[i] != 0:
                        values[n] = row[i]
                        columns[n] = i
                        n += 1


@_compile(fast=True)
def _products_met(r, rows, by_latent, products, seen, met):
    """Write the products of row r with every row of a table that shares a latent with it.

    Parameters
    ----------
    rows
        Values, columns and starts of the rows of which r is one.
    by_latent
        Values, rows and starts of the entries of the table, sorted by latent.
    products
        Written: [n], at the rows that are met.
    seen
        [n], set to r there; no row must have been r's number before.
    met
        Written: the rows that are met, of which the number is returned.
    """
    values, columns, starts = rows
    t_values, t_rows, t_starts = by_latent
    n_met = 0
    for e in range(starts[r], starts[r + 1]):
        value, latent = values[e], columns[e]
        for p in range(t_starts[latent], t_starts[latent + 1]):
            j = t_rows[p]
            if seen[j] != r:
                seen[j] = r
                products[j] = 0.0
                met[n_met] = j
                n_met += 1
            products[j] += value * t_values[p]
    return n_met


@_compile(fast=True)
def contrast_anchors(
    first, last, anchors, by_latent, wanted, groups, usable, n_apart, scale, log_sums, terms,
    gradient,
):  # fmt: skip
    """Compare each anchor with every key, of which most have no latent in common with it.

    A key without one has a product of exactly 0, so that all of them together add their number
    to the sum of exponentials.

    Parameters
    ----------
    anchors
        Values, columns and starts of n rows.
    by_latent
        Values, rows and starts of the entries of m keys, sorted by latent; key r is the positive
        of anchor r.
    wanted
        Columns and starts of the entries of each anchor whose gradient is asked for.
    groups
        Sequence of each key, [m]; the first n are also those of the anchors.
    usable
        Anchors that count, booleans [n].
    n_apart
        Active keys of other sequences, for each anchor, [n].
    scale
        1 / τ.
    log_sums, terms
        Written: [n], the logarithm of the sum over the positive and the negatives, and the term.
    gradient
        Zeros [n, width]; written at the wanted entries, times τ.
    """
    values = anchors[0]
    k_values, k_rows, k_starts = by_latent
    w_columns, w_starts = wanted
    m = len(groups)
    zero = values.dtype.type(0)
    weights = np.zeros(m, values.dtype)
    seen = np.full(m, -1, np.int32)
    met = np.empty(m, np.int32)
    for r in range(first, last):
        log_sums[r], terms[r] = zero, zero
        if not usable[r]:
            continue
        n_met = _products_met(r, anchors, by_latent, weights, seen, met)
        own = weights[r] * scale if seen[r] == r else zero
        largest, n_others = max(own, zero), 0
        for t in range(n_met):
            j = met[t]
            if groups[j] == groups[r]:
                weights[j] = zero
            else:
                met[n_others] = j
                n_others += 1
                weights[j] *= scale
                largest = max(largest, weights[j])
        of_own, of_apart = np.exp(own - largest), np.exp(-largest)
        total = of_own + (n_apart[r] - n_others) * of_apart
        for t in range(n_others):
            j = met[t]
            weights[j] = np.exp(weights[j] - largest)
            total += weights[j]
        log_sums[r] = largest + np.log(total)
        terms[r] = log_sums[r] - own
        of_own -= total
        if seen[r] == r:
            weights[r] = of_own
        for e in range(w_starts[r], w_starts[r + 1]):
            latent = w_columns[e]
            slope = zero
            for p in range(k_starts[latent], k_starts[latent + 1]):
                j = k_rows[p]
                if seen[j] == r:
                    slope += weights[j] * k_values[p]
                elif j == r:
                    slope += of_own * k_values[p]
                elif groups[j] != groups[r]:
                    slope += of_apart * k_values[p]
            gradient[r, latent] = slope / total


@_compile(fast=True)
def contrast_keys(first, last, keys, by_latent, wanted, groups, usable, scale, log_sums, gradient):
    """Write what the positives of a batch get from all its anchors.

    Parameters
    ----------
    keys
        Values, columns and starts of n rows.
    by_latent
        Values, rows and starts of the entries of the anchors, sorted by latent.
    wanted
        Columns and starts of the entries of each key whose gradient is asked for.
    groups, usable, scale
        As for `contrast_anchors`, of the batch alone.
    log_sums
        As `contrast_anchors` found them.
    gradient
        Zeros [n, width]; written at the wanted entries, times τ.
    """
    values, _, starts = keys
    a_values, a_rows, a_starts = by_latent
    w_columns, w_starts = wanted
    n = len(usable)
    zero, one = values.dtype.type(0), values.dtype.type(1)
    weights = np.zeros(n, values.dtype)
    seen = np.full(n, -1, np.int32)
    met = np.empty(n, np.int32)
    for r in range(first, last):
        if starts[r + 1] == starts[r]:
            continue
        n_met = _products_met(r, keys, by_latent, weights, seen, met)
        for t in range(n_met):
            i = met[t]
            counts = usable[i] and (i == r or groups[i] != groups[r])
            weight = np.exp(weights[i] * scale - log_sums[i]) if counts else zero
            weights[i] = weight - one if counts and i == r else weight
        for e in range(w_starts[r], w_starts[r + 1]):
            latent = w_columns[e]
            slope = zero
            for p in range(a_starts[latent], a_starts[latent + 1]):
                i = a_rows[p]
                if seen[i] == r:
                    slope += weights[i] * a_values[p]
                elif usable[i] and (i == r or groups[i] != groups[r]):
                    weight = np.exp(-log_sums[i])
                    slope += (weight - one if i == r else weight) * a_values[p]
            gradient[r, latent] = slope
