"""What does each layer see, and what does the loss feel in it?"""

import math
from typing import NamedTuple

import numpy as np

from .. import svd
from ..backend import tf
from . import drawn, feed, graph, kinds, watch

SAMPLES = 10_000  # with all 55,000, accuracies of notebook 1 differ by about a tenth of a point
NOT_FINITE = "the loss is not finite: logits need from_logits=True, and inputs must be finite."
KEPT = 2**28  # numbers, at most, that go into a layer and are kept to run on from there
PRODUCT = 2**38  # multiply-adds that a C may take; of more rows some are drawn, 10 n_in at least
LEAST = 100  # inputs that a layer must have seen for its C to mean anything


class Moments(NamedTuple):
    """C = E[xᵀx] (n_in, n_in) over a layer's inputs x, and Γ = E[gᵀg] (n_out, n_out), or None.

    Of an embedding, whose inputs are unit vectors, C is the diagonal (n_in,): how often each comes.
    Of fewer rows than n_in, C is helpers.svd.Rows.
    """

    C: np.ndarray | svd.Rows
    Gamma: np.ndarray
    mean: np.ndarray  # E[x] (n_in,)
    rows: int  # that the layer multiplied: the inputs, times positions of each


class Regression(NamedTuple):
    """Of inputs x of a layer in one network, and z = x W in another: means and covariances."""

    x: np.ndarray  # mean (n_in,)
    z: np.ndarray  # mean (n_out,)
    C: np.ndarray | svd.Rows  # cov(x) (n_in, n_in), or x without its mean
    X: np.ndarray  # cov(x, z) (n_in, n_out), or z without its mean (n, n_out)


def measure(model, names, inputs, loss=None, samples=SAMPLES, weights=None):
    """C and Γ of layers, measured in one pass over the inputs.

        C = E[xᵀx],    Γ = E[gᵀg],    g = ∂loss/∂z,    z = x W + b

    The labels of the loss are drawn from the network's own answers, which makes the Γ of all
    layers the blocks of its Fisher information: how much the loss feels a change of z. Where a
    layer multiplies several rows for one input (positions of a sequence, patches of an image), C
    is the mean over all rows, or many of them, and Γ the sum over those of one input, which puts
    s² in units of the loss in every layer. Masks are not known here: padding counts as any other
    position, but in an embedding with mask_zero, where it does not count.

    Args:
        names: of layers that multiply by a matrix (`helpers.compress.graph.compressible`).
        model, inputs, loss, samples, weights: as for `helpers.compress.observe`. Without a loss
            there is no Γ.

    Returns:
        {layer name: Moments}.

    Raises:
        ValueError: inputs do not fit the model, or are too few; labels cannot be drawn, or the
            loss is not finite.

    Source: Martens and Grosse, Optimizing neural networks with Kronecker-factored approximate
    curvature, ICML 2015; for patches, Grosse and Martens, ICML 2016.
    """
    inputs = feed.chosen(model, inputs, samples)
    surprises = None if loss is None else drawn.surprises(model, loss, weights)
    layers = graph.leaves(model)
    probe = watch.watched(model, {name: kinds.of(layers[name]) for name in names})
    views = {name: view for name, (_, view, _) in probe.parts.items()}
    sums, rows = {name: [0.0, 0.0, 0.0] for name in names}, dict.fromkeys(names, 0)
    few, every = {}, {}  # {name of a layer that gets fewer rows than n_in: all of them}; how many
    batches = feed.batches(inputs, "measuring what the layers see", probe)
    for k, batch in enumerate(batches):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            outputs, xs, zs = probe.run(batch, None if loss is None else tape)
            if surprises is not None:  # each output's labels are drawn apart
                seeds = range(k * len(outputs), (k + 1) * len(outputs))
                each = zip(surprises, outputs, seeds, strict=True)
                felt = sum(surprise(z, seed) for surprise, z, seed in each)
                if not np.isfinite(felt):
                    raise ValueError(NOT_FINITE)
        if not k:
            share = len(batch[0]) / len(inputs[0])
            for name, view in views.items():
                counts = [view.count(z, x)[1] for z, x in zip(zs[name], xs[name], strict=True)]
                every[name] = round(sum(counts) / share)
                if every[name] < view.shape[0] and not isinstance(view, kinds.Embedding):
                    few[name] = []
        gradients = {name: [] for name in names}
        if surprises is not None:
            gradients = tape.gradient(felt, zs, unconnected_gradients="zero")
        for name, view in views.items():
            some = _some(view, every[name], k)
            for x in xs[name]:
                if name in few:
                    few[name].append(view.rows(x))
                    C, total, n = np.zeros(()), few[name][-1].sum(0), len(few[name][-1])
                else:
                    C, total, n = view.second_moment(x, some)
                sums[name][0] += C.astype(float)
                sums[name][2] += total.astype(float)
                rows[name] += n
            for g in map(view.rows_out, gradients[name]):
                sums[name][1] += (g.T @ g).astype(float)
    for name, seen in rows.items():
        least = min(LEAST, views[name].shape[0])
        if seen < least:
            raise ValueError(f"{seen} inputs are too few to tell what {name} sees: give {least}.")
    n = len(inputs[0])
    found = {}
    for name, (C, Gamma, mean) in sums.items():
        Gamma = None if surprises is None else views[name].spread(Gamma / n)
        C = svd.Rows(np.concatenate(few[name])) if name in few else C / rows[name]
        found[name] = Moments(C, Gamma, mean / rows[name], every[name])
    return found


def _some(view, rows, k):
    """A function from how many rows there are in batch k to those that are used."""
    n_in = view.shape[0]
    share = max(PRODUCT / n_in**2, 10 * n_in) / max(rows, 1)
    if share >= 1:
        return kinds.every

    def some(n):
        return np.sort(np.random.default_rng(k).choice(n, math.ceil(share * n), replace=False))

    return some


def _side_by_side(before, after, name, inputs):
    """Batch by batch, what goes into a layer in both networks; what is not too much they keep."""
    (old, first), (new, second) = (network.up_to(name, inputs) for network in (before, after))
    kept, start, n = [None, None], 0, len(first[0])
    for pair in feed.batches(first + second, f"cutting {name}", old):
        runs, end = (old.run(pair[: len(first)]), new.run(pair[len(first) :])), start + len(pair[0])
        seen = [xs[name] for _, xs, _ in runs]
        for i, (x, *_) in enumerate(seen):
            if start == 0 and len(x) == end and np.size(x) * n / end <= KEPT:
                kept[i] = np.empty((n, *x.shape[1:]), np.asarray(x).dtype)
            if kept[i] is not None:
                kept[i][start:end] = x
        start = end
        yield seen
    before.keep(name, kept[0])
    after.keep(name, kept[1])


def regression(before, after, name, inputs, rows):
    """Moments of a layer's inputs x in the network `after` and its products z = x W in `before`.

    Args:
        before, after: from `helpers.compress.watch.watched`, of a model and its smaller copy.
        name: of the layer. Means are removed only if its bias can hold them.
        inputs: a list of arrays, as from `helpers.compress.feed.chosen`.
        rows: that the layer multiplies for all inputs, from `measure`.
    """
    view, whole = after.parts[name][1], before.parts[name][1]
    W = whole.matrix()
    n, sums, middles = 0, [0.0, 0.0, 0.0, 0.0], None
    few = ([], []) if rows < view.shape[0] else None
    for k, pair in enumerate(_side_by_side(before, after, name, inputs)):
        some = _some(view, rows, k)
        for was, x in zip(*pair, strict=True):
            x, was = view.rows(x, some), whole.rows(was, some)
            if middles is None:  # in float32, squares of a large mean would drown the variance
                middles = [rows.mean(0) * view.centred for rows in (x, was)]
            x, was = x - middles[0], was - middles[1]
            n += len(x)
            parts = [x.sum(0), was.sum(0)]
            if few is None:
                parts += [x.T @ x, x.T @ was]
            else:
                few[0].append(x)
                few[1].append(was)
            for i, part in enumerate(parts):
                sums[i] = sums[i] + part.astype(float)
    x, z = sums[0] / n * view.centred, sums[1] @ W / n * view.centred
    means = x + middles[0], z + middles[1] @ W
    if few is not None:
        every = [np.concatenate(rows).astype(float) for rows in few]
        return Regression(*means, svd.Rows(every[0] - x), every[1] @ W - z)
    C, X = sums[2] / n, sums[3] @ W / n
    return Regression(*means, C - np.outer(x, x), X - np.outer(x, z))
