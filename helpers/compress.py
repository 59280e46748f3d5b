"""Network in, network out: the Dense layers of any Keras model at rank D."""

from typing import NamedTuple

import numpy as np

from . import graph, moments, svd
from .lab.backend import keras
from .layers import DynamicDense
from .ranks import per_layer


def hidden_layers(model):
    """Names of the Dense layers to compress by default: all but those that give the outputs.

    Args:
        model: a built Keras model, Sequential or functional.

    Returns:
        list of str, in the model's order.

    Raises:
        ValueError: the model is not built, or not made of Keras layers.
    """
    outputs = graph.output_layers(model)
    return [layer.name for layer in graph.dense_layers(model) if layer not in outputs]


def decompose(model, layers=None, inputs=None, loss=None, samples=moments.SAMPLES):
    """One SVD per weight matrix, which serves every D.

    Of a dynamic layer: the rank-D SVD that it computes with.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        layers: names of Dense layers; all but the output by default.
        inputs: None for the plain SVD. Else inputs of the model, as for `model.predict`: the
            SVD is weighted by C = E[xᵀx] over what these make each layer see.
        loss: a Keras loss, or its name: the SVD is weighted on its other side, too, by the Γ that
            the loss feels (`helpers.moments.observe`). Its s² are then in units of the loss.
        samples: how many of the inputs are used.

    Returns:
        {layer name: helpers.svd.SVD}.

    Raises:
        ValueError: a name is not that of a Dense layer of the model, inputs do not fit it or are
            too few, or the loss is none that Γ can be taken from.
    """
    chosen = _chosen(model, layers)
    if inputs is None:
        _no_loss_without_inputs(loss)
        return {layer.name: _decompose(layer) for layer in chosen}
    seen = moments.observe(model, [layer.name for layer in chosen], inputs, loss, samples)
    return {layer.name: svd.decompose(graph.kernel(layer), *seen[layer.name]) for layer in chosen}


def truncate(model, D, layers=None, svds=None, inputs=None, loss=None, samples=moments.SAMPLES):
    """A copy of the model whose kernels are truncated, W_D = U[:, :D] diag(s[:D]) Vt[:D].

    All other layers are kept, and biases, where layers are not cut one after the other; the
    architecture is the same.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        D: singular values kept, one number for all layers or a sequence of one per layer; more
            than a matrix has keeps all.
        layers: names of Dense layers; those of `svds`, else all but the output by default.
        svds: from `decompose`, to reuse for several D; computed if missing.
        inputs, loss, samples: as for `decompose`; in the place of svds. The layers are cut one
            after the other, each for what those cut before it have become: its kernel is the
            reduced-rank regression of its former outputs on its new inputs, its bias corrected.

    Returns:
        keras.Model.

    Raises:
        ValueError: D is no such number, a name is not that of a Dense layer of the model, or
            inputs or loss are none that `decompose` takes.
    """
    cuts = _cuts(model, D, layers, svds, inputs, loss, samples)
    return graph.copy(model, {cut.layer.name: _truncated(cut) for cut in cuts})


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
    """A copy of the model in which two Dense layers stand for each chosen one, W → U_D, Vt_D.

        act(x W + b)   →   act((x U_D) Vt_D + b),   U_D Vt_D = W_D

    U_D (n_in, D) is linear and has no bias; Vt_D (D, n_out) has the layer's bias and activation.
    They are named after the layer, with _U and _Vt appended. All are plain Keras layers, and
    give the outputs of `truncate`. Where two factors would not save parameters
    (`helpers.svd.break_even_rank`), the layer stays one, with kernel W_D.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        D: singular values kept, one number for all layers or a sequence of one per layer; more
            than a matrix has keeps all.
        layers: names of Dense layers; those of `svds`, else all but the output by default.
        svds: from `decompose`, to reuse for several D; computed if missing.
        inputs, loss, samples: as for `decompose`; in the place of svds. The layers are cut one
            after the other, each for what those cut before it have become: its kernel is the
            reduced-rank regression of its former outputs on its new inputs, its bias corrected.
        balanced: share the singular values between both factors (`helpers.svd.factors`), else
            Vt_D has them all.

    Returns:
        keras.Model.

    Raises:
        ValueError: D is no such number, a name is not that of a Dense layer of the model, or
            inputs or loss are none that `decompose` takes.
    """
    cuts = _cuts(model, D, layers, svds, inputs, loss, samples)
    return graph.copy(model, {cut.layer.name: _pair(cut, balanced) for cut in cuts})


def dynamic(model, D, layers=None, svds=None, derivative="tangent", tracking="subspace"):
    """A copy of the model in which each chosen layer always computes with the SVD of its kernel.

    Dense → `helpers.layers.DynamicDense`, same name, kernel W and bias; D is cut to the rank of
    W. Before training it gives the outputs of `truncate`; train it, then `factorize` it.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        D: singular values kept, one number for all layers or a sequence of one per layer; more
            than a matrix has keeps all.
        layers: names of Dense layers; those of `svds`, else all but the output by default.
        svds: from `decompose`, plain, to reuse for several D; computed if missing.
        derivative, tracking: see `helpers.layers.DynamicDense`.

    Returns:
        keras.Model.

    Raises:
        ValueError: D, derivative or tracking is none allowed, or a name is not that of a Dense
            layer of the model.
    """
    own = {"derivative": derivative, "tracking": tracking}
    cuts = _cuts(model, D, layers, svds)
    return graph.copy(model, {cut.layer.name: _dynamic(cut, **own) for cut in cuts})


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
    for name, D in ranks.items():
        shape = model.get_layer(name).kernel.shape
        dense = shape[0] * shape[1]
        total -= dense - min(dense, svd.factorized_parameters(shape, D))
    return total


class _Cut(NamedTuple):
    """What a layer is cut to: the D leading terms of an SVD, and its bias, [] if it has none."""

    layer: keras.layers.Layer
    factors: svd.SVD
    D: int
    bias: list


def _cuts(model, D, layers, svds, inputs=None, loss=None, samples=None):
    """A _Cut for each chosen layer, from the arguments of `truncate`, checked."""
    if inputs is not None and svds is not None:
        raise ValueError("give svds, or inputs to cut layer after layer by, not both.")
    if layers is None and svds is not None:
        layers = list(svds)
    chosen = _chosen(model, layers)
    ranks = per_layer([layer.name for layer in chosen], D)
    if inputs is not None:
        return _layer_after_layer(model, chosen, ranks, inputs, loss, samples)
    _no_loss_without_inputs(loss)
    if svds is None:
        svds = decompose(model, list(ranks))
    if missing := [name for name in ranks if name not in svds]:
        raise ValueError(f"svds lack the layers {missing}.")
    return [_Cut(layer, svds[layer.name], ranks[layer.name], graph.bias(layer)) for layer in chosen]


def _layer_after_layer(model, chosen, ranks, inputs, loss, samples):
    """Cuts of which each knows what the cuts before it have done to its inputs."""
    seen = moments.observe(model, list(ranks), inputs, loss, samples)
    uncut, becoming = (graph.split(model, chosen) for _ in range(2))
    cuts = []
    for layer in sorted(chosen, key=model.layers.index):
        D, W = ranks[layer.name], graph.kernel(layer)
        fit = moments.regression(uncut, becoming, layer, inputs, samples)
        factors = svd.regress(fit.C, fit.X, W, seen[layer.name].Gamma, D)
        W_D = svd.truncate(factors, D)
        bias = [fit.z - fit.x @ W_D] if layer.use_bias else []
        becoming.get_layer(layer.name).set_weights([W_D, *bias])
        cuts.append(_Cut(layer, factors, D, bias))
    return cuts


def _truncated(cut):
    """The chain of one Dense layer with kernel W_D."""
    return [(graph.like(cut.layer), [svd.truncate(cut.factors, cut.D), *cut.bias])]


def _pair(cut, balanced):
    """The chain of two Dense layers, n_in → D, linear, and D → n_out, if they save parameters."""
    layer, factors, D, bias = cut
    if min(D, len(factors.s)) > svd.break_even_rank(layer.kernel.shape):
        return _truncated(cut)
    U_D, Vt_D = svd.factors(factors, D, balanced)
    linear = {"use_bias": False, "activation": None, "activity_regularizer": None}
    first = graph.like(layer, name=f"{layer.name}_U", units=U_D.shape[1], **linear)
    return [(first, [U_D]), (graph.like(layer, name=f"{layer.name}_Vt"), [Vt_D, *bias])]


def _dynamic(cut, **own):
    """The chain of one dynamic layer."""
    layer, factors, D, bias = cut
    D = min(D, len(factors.s))
    config = keras.layers.Dense.get_config(layer) | own | {"D": D}
    weights = [layer.kernel, *bias, factors.U[:, :D], factors.s[:D], factors.Vt[:D], np.int32(D)]
    return [(DynamicDense(**config), weights)]


def _decompose(layer):
    return layer.svd() if isinstance(layer, DynamicDense) else svd.decompose(graph.kernel(layer))


def _chosen(model, names):
    """The Dense layers of these names, or all but the output; a wrong name is an error."""
    dense = {layer.name: layer for layer in graph.dense_layers(model)}
    names = hidden_layers(model) if names is None else names
    if unknown := [name for name in names if name not in dense]:
        raise ValueError(f"{unknown} are not Dense layers of the model; these are: {list(dense)}.")
    return [dense[name] for name in names]


def _no_loss_without_inputs(loss):
    if loss is not None:
        raise ValueError("a loss says what the layers feel only with inputs: give both.")
