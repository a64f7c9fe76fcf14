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
def contrast_anchors(
    first, last, anchors, keys, by_latent, groups, members, usable, total, scale, out
):
    """Compare each anchor with every key, of which most have no latent in common with it.

    A key without one has a product of exactly 0, so that all of them together add their number
    to the sum, and their mean direction to the gradient.

    Parameters
    ----------
    anchors
        Values, columns and starts of n rows.
    keys
        Those of m rows; the first n are the positives of the anchors.
    by_latent
        Values, rows and starts of the keys' entries, sorted by latent.
    groups
        Sequence of each key, [m]; the first n are also those of the anchors.
    members
        Keys sorted by group, and for each anchor the range of its own: [m], [n], [n].
    usable
        Anchors that count, booleans [n].
    total
        Sum of all keys, [width].
    scale
        1 / τ.
    out
        Written: log-sum-exp [n], the term [n], its gradient times τ [n, width], negatives that
        counted [n], and active rows of the anchor's own sequence beside its positive [n].
    """
    values, columns, starts = anchors
    k_values, k_columns, k_starts = keys
    l_values, l_rows, l_starts = by_latent
    order, own_first, own_last = members
    log_sums, terms, gradient, n_negatives, n_excluded = out
    m = len(groups)
    zero = values.dtype.type(0)
    products = np.zeros(m, values.dtype)
    seen = np.full(m, -1, np.int32)
    touched = np.empty(m, np.int32)
    n_active = 0
    for j in range(m):
        n_active += k_starts[j + 1] > k_starts[j]
    for r in range(first, last):
        made = gradient[r]
        if not usable[r]:
            log_sums[r], terms[r] = zero, zero
            n_negatives[r], n_excluded[r] = 0, 0
            for i in range(len(made)):
                made[i] = zero
            continue
        n_touched = 0
        for e in range(starts[r], starts[r + 1]):
            value, latent = values[e], columns[e]
            for p in range(l_starts[latent], l_starts[latent + 1]):
                j = l_rows[p]
                if seen[j] != r:
                    seen[j] = r
                    products[j] = zero
                    touched[n_touched] = j
                    n_touched += 1
                products[j] += value * l_values[p]
        own = products[r] * scale if seen[r] == r else zero
        n_same = 0
        for q in range(own_first[r], own_last[r]):
            j = order[q]
            n_same += k_starts[j + 1] > k_starts[j]
        largest, n_met = max(own, zero), 0
        for t in range(n_touched):
            j = touched[t]
            if groups[j] != groups[r]:
                touched[n_met] = j
                n_met += 1
                largest = max(largest, products[j] * scale)
        n_apart = n_active - n_same - n_met
        weight_apart = np.exp(-largest)
        weight_own = np.exp(own - largest)
        summed = weight_own + n_apart * weight_apart
        for t in range(n_met):
            j = touched[t]
            weight = np.exp(products[j] * scale - largest)
            products[j] = weight
            summed += weight
        log_sums[r] = largest + np.log(summed)
        terms[r] = log_sums[r] - own
        n_negatives[r], n_excluded[r] = n_active - n_same, n_same - 1
        # Every key as if it had nothing in common, then what that leaves out.
        weight_apart /= summed
        for i in range(len(made)):
            made[i] = weight_apart * total[i]
        for q in range(own_first[r], own_last[r]):
            j = order[q]
            for e in range(k_starts[j], k_starts[j + 1]):
                made[k_columns[e]] -= weight_apart * k_values[e]
        for t in range(n_met):
            j = touched[t]
            weight = products[j] / summed - weight_apart
            for e in range(k_starts[j], k_starts[j + 1]):
                made[k_columns[e]] += weight * k_values[e]
        weight = weight_own / summed - 1
        for e in range(k_starts[r], k_starts[r + 1]):
            made[k_columns[e]] += weight * k_values[e]


@_compile(fast=True)
def contrast_keys(
    first, last, keys, anchors, by_latent, groups, members, usable, apart, total, log_sums, scale,
    gradient,
):  # fmt: skip
    """Write the gradient, times τ, that the positives of a batch get from all its anchors.

    Parameters
    ----------
    keys, anchors
        Values, columns and starts of n rows each.
    by_latent
        Values, rows and starts of the anchors' entries, sorted by latent.
    groups, members, usable, scale
        As for `contrast_anchors`, but all of the batch alone.
    apart
        Of each anchor, the weight of a key that has nothing in common with it, [n].
    total
        Sum of the anchors, by that weight, [width].
    log_sums
        As `contrast_anchors` found them.
    gradient
        Written: [n, width].
    """
    values, columns, starts = keys
    a_values, a_columns, a_starts = anchors
    l_values, l_rows, l_starts = by_latent
    order, own_first, own_last = members
    n = len(usable)
    zero = values.dtype.type(0)
    products = np.zeros(n, values.dtype)
    seen = np.full(n, -1, np.int32)
    touched = np.empty(n, np.int32)
    for r in range(first, last):
        made = gradient[r]
        if starts[r + 1] == starts[r]:
            for i in range(len(made)):
                made[i] = zero
            continue
        for i in range(len(made)):
            made[i] = total[i]
        n_touched = 0
        for e in range(starts[r], starts[r + 1]):
            value, latent = values[e], columns[e]
            for p in range(l_starts[latent], l_starts[latent + 1]):
                i = l_rows[p]
                if seen[i] != r:
                    seen[i] = r
                    products[i] = zero
                    touched[n_touched] = i
                    n_touched += 1
                products[i] += value * l_values[p]
        for q in range(own_first[r], own_last[r]):
            i = order[q]
            if usable[i]:
                for e in range(a_starts[i], a_starts[i + 1]):
                    made[a_columns[e]] -= apart[i] * a_values[e]
        for t in range(n_touched):
            i = touched[t]
            if usable[i] and groups[i] != groups[r]:
                weight = np.exp(products[i] * scale - log_sums[i]) - apart[i]
                for e in range(a_starts[i], a_starts[i + 1]):
                    made[a_columns[e]] += weight * a_values[e]
        if usable[r]:
            own = products[r] * scale if seen[r] == r else zero
            weight = np.exp(own - log_sums[r]) - 1
            for e in range(a_starts[r], a_starts[r + 1]):
                made[a_columns[e]] += weight * a_values[e]
