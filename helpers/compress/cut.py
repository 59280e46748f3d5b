"""Network in, network out: any Keras model with its matrices at rank D."""

from typing import NamedTuple

import numpy as np

from . import moments, svd
from .lab.backend import keras
from .layers import DynamicDense
from .networks import feed, graph, kinds, watch
from .networks.report import report as report
from .ranks import per_layer


def hidden_layers(model):
    """Names of the layers to compress by default: all that can be but those that give the outputs.

    These are Dense, EinsumDense, convolutions and embeddings (`helpers.networks.kinds`). Layers of
    nested models are named by their path, "backbone/conv_1".

    Args:
        model: a built Keras model, Sequential or functional.

    Returns:
        list of str, in the model's order.

    Raises:
        ValueError: the model is not built, or not made of Keras layers.
    """
    outputs = graph.output_layers(model)
    return [name for name, layer in graph.compressible(model).items() if layer not in outputs]


def decompose(model, layers=None, inputs=None, loss=None, samples=moments.SAMPLES):
    """One SVD per weight matrix, which serves every D.

    Of a dynamic layer: the rank-D SVD that it computes with.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        layers: names of layers; `hidden_layers` by default.
        inputs: None for the plain SVD. Else inputs of the model, as for `model.predict`: the
            SVD is weighted by C = E[xᵀx] over what these make each layer see.
        loss: a Keras loss, or its name: the SVD is weighted on its other side, too, by the Γ that
            the loss feels (`helpers.moments.observe`). Its s² are then in units of the loss.
        samples: how many of the inputs are used.

    Returns:
        {layer name: helpers.svd.SVD}.

    Raises:
        ValueError: a name is not that of a layer that can be compressed, inputs do not fit it or
            are too few, or the loss is none that Γ can be taken from.
    """
    chosen = _chosen(model, layers)
    return _decompose(chosen, _observe(model, chosen, inputs, loss, samples))


def truncate(model, D, layers=None, svds=None, inputs=None, loss=None, samples=moments.SAMPLES):
    """A copy of the model whose kernels are truncated, W_D = U[:, :D] diag(s[:D]) Vt[:D].

    All other layers are kept, and biases unless layers are cut one after the other; the
    architecture is the same.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        D: singular values kept: one number for all layers, a sequence of one per layer, or
            {layer name: D}; more than a matrix has keeps all.
        layers: names of layers; those of `svds`, else `hidden_layers`, by default.
        svds: from `decompose`, to reuse for several D; computed if missing.
        inputs, loss, samples: as for `decompose`; in the place of svds. The layers are cut one
            after the other, each for what those cut before it have become: its kernel is the
            reduced-rank regression of its former outputs on its new inputs, its bias corrected.

    Returns:
        keras.Model.

    Raises:
        ValueError: D is no such number, a name is not that of a layer that can be compressed, or
            inputs or loss are none that `decompose` takes.
    """
    cuts = _cuts(model, D, layers, svds, inputs, loss, samples)
    return graph.copy(model, {name: _truncated(cut) for name, cut in cuts.items()})


def factorize(
    model,
    D,
    layers=None,
    svds=None,
    balanced=False,
    inputs=None,
    loss=None,
    samples=moments.SAMPLES,
):
    """A copy of the model in which two layers stand for each chosen one, W → U_D, Vt_D.

        act(x W + b)   →   act((x U_D) Vt_D + b),   U_D Vt_D = W_D

    U_D (n_in, D) is linear and has no bias; Vt_D (D, n_out) has the layer's bias and activation.
    They are named after the layer, with _U and _Vt appended. All are plain Keras layers, without
    what constrains W, and give the outputs of `truncate`. Where two factors would not save
    parameters (`helpers.svd.break_even_rank`), the layer stays one, with kernel W_D.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        D: singular values kept: one number for all layers, a sequence of one per layer, or
            {layer name: D}; more than a matrix has keeps all.
        layers: names of layers; those of `svds`, else `hidden_layers`, by default.
        svds: from `decompose`, to reuse for several D; computed if missing.
        inputs, loss, samples: as for `decompose`; in the place of svds. The layers are cut one
            after the other, each for what those cut before it have become: its kernel is the
            reduced-rank regression of its former outputs on its new inputs, its bias corrected.
        balanced: share the singular values between both factors (`helpers.svd.factors`), else
            Vt_D has them all.

    Returns:
        keras.Model.

    Raises:
        ValueError: D is no such number, a name is not that of a layer that can be compressed, or
            inputs or loss are none that `decompose` takes.
    """
    cuts = _cuts(model, D, layers, svds, inputs, loss, samples)
    return graph.copy(model, {name: _pair(cut, balanced) for name, cut in cuts.items()})


def dynamic(model, D, layers=None, svds=None, derivative="tangent", tracking="subspace"):
    """A copy of the model in which each chosen layer always computes with the SVD of its kernel.

    Dense → `helpers.layers.DynamicDense`, same name, kernel W and bias; D is cut to the rank of
    W. Before training it gives the outputs of `truncate`; train it, then `factorize` its layers
    `helpers.callbacks.dynamic_layers`.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        D: singular values kept: one number for all layers, a sequence of one per layer, or
            {layer name: D}; more than a matrix has keeps all.
        layers: names of layers; those of `svds`, else `hidden_layers`, by default.
        svds: from `decompose`, plain, to reuse for several D; computed if missing.
        derivative, tracking: see `helpers.layers.DynamicDense`.

    Returns:
        keras.Model.

    Raises:
        ValueError: D, derivative or tracking is none allowed, or a name is not that of a Dense
            layer of the model.
    """
    own = {"derivative": derivative, "tracking": tracking}
    if layers is None and svds is None and not isinstance(D, dict):
        layers = [name for name in hidden_layers(model) if _is_dense(graph.leaves(model)[name])]
    cuts = _cuts(model, D, layers, svds)
    if others := [name for name, cut in cuts.items() if not _is_dense(cut.kind.layer)]:
        raise ValueError(f"dynamic layers are Dense; of other kinds are {others}.")
    return graph.copy(model, {name: _dynamic(cut, **own) for name, cut in cuts.items()})


def cutter(model, layers=None, inputs=None, loss=None, samples=moments.SAMPLES):
    """What it takes to try many ranks on one model: what its layers see is measured once.

    Args:
        model, layers, inputs, loss, samples: as for `decompose`.

    Returns:
        SVDs as from `decompose`, and a function {layer name: D} → network as from `factorize`,
        layer after layer if there are inputs.

    Raises:
        ValueError: as `decompose`.
    """
    chosen = _chosen(model, layers)
    seen = _observe(model, chosen, inputs, loss, samples)
    svds = _decompose(chosen, seen)

    def cut(ranks):
        if seen is None:
            return factorize(model, ranks, svds=svds)
        some = {name: chosen[name] for name in ranks}
        cuts = _layer_after_layer(model, some, ranks, seen, inputs, samples)
        return graph.copy(model, {name: _pair(cut, False) for name, cut in cuts.items()})

    return svds, cut


def kept_parameters(model, ranks):
    """Parameters of `model` when each named layer is stored at its rank, in its smaller form.

    A layer beyond its break-even rank stays dense; biases and all other layers count whole.

    Args:
        model: a built Keras model.
        ranks: {layer name: D}.

    Returns:
        int, numbers to store.
    """
    total = model.count_params()
    chosen = _chosen(model, list(ranks))
    for name, D in ranks.items():
        shape = chosen[name].shape
        dense = shape[0] * shape[1]
        total -= dense - min(dense, svd.factorized_parameters(shape, D))
    return total


class _Cut(NamedTuple):
    """What a layer is cut to: the D leading terms of an SVD, and its bias, [] if it has none."""

    kind: kinds.Dense  # the layer as a matrix
    factors: svd.SVD
    D: int
    bias: list


def _cuts(model, D, layers, svds, inputs=None, loss=None, samples=None):
    """{layer name: _Cut}, from the arguments of `truncate`, checked."""
    if inputs is not None and svds is not None:
        raise ValueError("give svds, or inputs to cut layer after layer by, not both.")
    if isinstance(D, dict):
        if layers is not None and {*layers} != {*D}:
            raise ValueError(f"D names the layers {[*D]}, and layers {[*layers]}.")
        layers, D = list(D), list(D.values())
    if layers is None and svds is not None:
        layers = list(svds)
    chosen = _chosen(model, layers)
    ranks = per_layer(list(chosen), D)
    seen = _observe(model, chosen, inputs, loss, samples)
    if seen is not None:
        return _layer_after_layer(model, chosen, ranks, seen, inputs, samples)
    if svds is None:
        svds = _decompose(chosen, seen)
    if missing := [name for name in ranks if name not in svds]:
        raise ValueError(f"svds lack the layers {missing}.")
    return {n: _Cut(kind, svds[n], ranks[n], kind.bias) for n, kind in chosen.items()}


def _observe(model, chosen, inputs, loss, samples):
    """{layer name: (C, the root of Γ)} of the chosen layers, or None without inputs."""
    if inputs is None:
        if loss is not None:
            raise ValueError("a loss says what the layers feel only with inputs: give both.")
        return None
    seen = moments.observe(model, list(chosen), inputs, loss, samples)
    return {n: (C, svd.root("Γ", Gamma, chosen[n].shape[1])) for n, (C, Gamma) in seen.items()}


def _decompose(chosen, seen):
    """One SVD per layer, weighted by what was seen of it, if anything."""
    if seen is None:
        return {name: kind.decompose() for name, kind in chosen.items()}
    return {name: svd.decompose(kind.matrix(), *seen[name]) for name, kind in chosen.items()}


def _layer_after_layer(model, chosen, ranks, seen, inputs, samples):
    """Cuts of which each knows what the cuts before it have done to its inputs."""
    inputs = feed.chosen(model, inputs, samples)
    uncut, becoming = (watch.watched(model, chosen) for _ in range(2))
    cuts = {}
    for name in (name for name in graph.leaves(model) if name in chosen):
        kind, D, W = chosen[name], ranks[name], chosen[name].matrix()
        C, Gamma = seen[name]
        if C.ndim == 1:  # of an embedding: no cut before it changes the tokens
            factors, bias = svd.decompose(W, C, Gamma, D), kind.bias
        else:
            fit = moments.regression(uncut, becoming, name, inputs)
            factors = svd.regress(fit.C, fit.X, W, Gamma, D)
            bias = kind.moved_bias(fit.z - fit.x @ svd.truncate(factors, D))
        graph.put(becoming.parts[name][1], [kind.fold(svd.truncate(factors, D)), *bias])
        cuts[name] = _Cut(kind, factors, D, bias)
    return cuts


def _truncated(cut):
    """The chain of the layer alone, with kernel W_D."""
    return cut.kind.one(svd.truncate(cut.factors, cut.D), cut.bias)


def _pair(cut, balanced):
    """The chain of two layers, n_in → D, linear, and D → n_out, if they save parameters."""
    kind, factors, D, bias = cut
    if min(D, len(factors.s)) > svd.break_even_rank(kind.shape):
        return _truncated(cut)
    return kind.pair(*svd.factors(factors, D, balanced), bias)


def _dynamic(cut, **own):
    """The chain of one dynamic layer."""
    kind, factors, D, bias = cut
    D = min(D, len(factors.s))
    config = keras.layers.Dense.get_config(kind.layer) | own | {"D": D}
    weights = [kind.kernel, *bias, factors.U[:, :D], factors.s[:D], factors.Vt[:D], np.int32(D)]
    return [(DynamicDense(**config), weights)]


def _is_dense(layer):
    return isinstance(layer, keras.layers.Dense)


def _chosen(model, names):
    """{name: its layer as a matrix}, of these names, or all but the output; or a clear error."""
    able = graph.compressible(model)
    names = hidden_layers(model) if names is None else names
    if unknown := [name for name in names if name not in able]:
        reasons = [f"{name}: {graph.why_not(model, name)}" for name in unknown]
        raise ValueError(
            f"{unknown} cannot be compressed ({'; '.join(reasons)}); these can: {list(able)}."
        )
    return {name: kinds.of(able[name]) for name in names}
