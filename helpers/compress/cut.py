"""All layers cut at once, by one SVD each: truncated, factorized or dynamic.

A model is a built Keras model, Sequential or functional. It does not change.
"""

from typing import NamedTuple

import numpy as np

from .. import svd
from ..backend import keras
from ..layers import DynamicDense
from . import graph, kinds
from .flow import output_layers
from .merged import whole


def hidden_layers(model):
    """Names of the layers to compress by default: all that can be but those that give the outputs.

    These are Dense, convolutions, LSTM, GRU and embeddings (`helpers.compress.kinds`), in the
    model's order. Layers of nested models are named by their path, "backbone/conv_1".

    Raises:
        ValueError: the model is not built, or not made of Keras layers.
    """
    model = whole(model)
    able, outputs = graph.compressible(model), output_layers(model)
    return [name for name in able if name not in outputs]


def decompose(model, layers=None):
    """The plain SVD of each weight matrix, which serves every D.

    Of a dynamic layer it is the rank-D SVD that the layer computes with.

    Args:
        model: a Keras model.
        layers: names of layers; `hidden_layers` by default.

    Returns:
        {layer name: helpers.svd.SVD}.

    Raises:
        ValueError: a layer cannot be compressed.
    """
    return {name: kind.decompose() for name, kind in chosen(whole(model), layers).items()}


def truncate(model, D, svds=None):
    """A copy of the model whose kernels are truncated, W_D = U[:, :D] diag(s[:D]) Vt[:D].

    All other layers, the biases and the architecture are kept.

    Args:
        model: a Keras model.
        D: singular values kept, in every layer or as {layer name: D}; more than a matrix has keeps
            all. Cut are the layers that D names, else those of svds, else `hidden_layers`.
        svds: {layer name: helpers.svd.SVD}, from `decompose`, or from `observe` for a cut weighted
            by what the layers see; computed by `decompose` if missing.

    Raises:
        ValueError: D is not a valid rank, or a layer cannot be compressed or has no SVD in svds.
    """
    model = whole(model)
    cuts = _cuts(model, D, svds)
    return graph.copy(model, {name: one(cut) for name, cut in cuts.items()})


def factorize(model, D, svds=None):
    """A copy of the model in which two layers stand for each one that is cut, W → U_D, Vt_D.

        act(x W + b)   →   act((x U_D) Vt_D + b),   U_D Vt_D = W_D

    U_D (n_in, D) is linear and has no bias; Vt_D (D, n_out) has the layer's bias and activation.
    They are named after the layer, with _U and _Vt appended. All are plain Keras layers, without
    what constrains W, and give the outputs of `truncate`. Where two factors would not save
    parameters (`helpers.svd.break_even_rank`), the layer stays one, with kernel W_D. Pairs that
    the model has already are merged first (`helpers.compress.merge`). Arguments and errors are as
    for `truncate`.
    """
    model = whole(model)
    cuts = _cuts(model, D, svds)
    return graph.copy(model, {name: pair(cut) for name, cut in cuts.items()})


def dynamic(model, D, svds=None, **options):
    """A copy of the model in which Dense layers always compute with the SVD of their kernel.

    Dense → `helpers.layers.DynamicDense` of the same name, kernel W and bias. Before training it
    gives the outputs of `truncate`; train it, then `factorize` its `dynamic_layers`. A layer that
    D does not cut, D ≥ min(n_in, n_out), stays Dense, as layers of other kinds stay what they are.

    Args:
        model, D, svds: as for `truncate`; svds must be plain.
        **options: `derivative` and `tracking` of `helpers.layers.DynamicDense`.

    Raises:
        ValueError: as for `truncate`, an option is not allowed, or D names a layer that is not
            Dense.
    """
    names = [*D] if isinstance(D, dict) else [*(hidden_layers(model) if svds is None else svds)]
    able = graph.compressible(model)
    others = [n for n in names if n in able and not isinstance(able[n], keras.layers.Dense)]
    if isinstance(D, dict) and others:
        raise ValueError(f"only Dense layers can be dynamic, which {others} are not.")
    ranks = _ranks([name for name in names if name not in others], D)
    cuts = _cuts(model, ranks, svds)
    cuts = {name: cut for name, cut in cuts.items() if cut.D < min(cut.kind.shape)}
    return graph.copy(model, {name: _dynamic(cut, options) for name, cut in cuts.items()})


def kept_parameters(model, ranks):
    """Parameters of `model` at ranks {layer name: D}, each layer stored in its smaller form.

    A layer beyond its break-even rank stays dense; biases and all other layers count whole.
    """
    model = whole(model)
    total = model.count_params()
    for name, kind in chosen(model, ranks).items():
        n_in, n_out = kind.shape
        total -= max(0, n_in * n_out - svd.factorized_parameters(kind.shape, ranks[name]))
    return total


class Cut(NamedTuple):
    """What a layer is cut to: the D leading terms of an SVD, and its bias, [] if it has none."""

    kind: kinds.Dense  # the layer as a matrix
    factors: svd.SVD
    D: int
    bias: list


def chosen(model, names=None):
    """{name: its layer as a matrix}, of these names, or `hidden_layers`; or a clear error."""
    able = graph.compressible(model)
    names = hidden_layers(model) if names is None else names
    if unknown := [name for name in names if name not in able]:
        reasons = "; ".join(f"{name}: {graph.why_not(model, name)}" for name in unknown)
        raise ValueError(f"{unknown} cannot be compressed ({reasons}); these can: {list(able)}.")
    return {name: kinds.of(able[name]) for name in names}


def _ranks(names, D):
    """{name: D}, checked; D itself says the names if it is a dict."""
    ranks = D if isinstance(D, dict) else dict.fromkeys(names, D)
    return {name: svd.check_rank(rank) for name, rank in ranks.items()}


def _cuts(model, D, svds):
    """{layer name: Cut}, from the arguments of `truncate`."""
    every = chosen(model, D if isinstance(D, dict) else svds)
    ranks = _ranks(every, D)
    if svds is None:
        svds = {name: kind.decompose(ranks[name]) for name, kind in every.items()}
    if missing := [name for name in ranks if name not in svds]:
        raise ValueError(f"svds lack the layers {missing}.")
    return {n: Cut(every[n], svds[n], rank, every[n].bias) for n, rank in ranks.items()}


def one(cut):
    """The chain of the layer alone, with kernel W_D; with W, if D keeps all."""
    if cut.D >= min(cut.kind.shape):
        return cut.kind.one(cut.kind.matrix(), cut.bias)
    return cut.kind.one(svd.truncate(cut.factors, cut.D), cut.bias)


def pair(cut):
    """The chain of two layers, n_in → D, linear, and D → n_out, if they save parameters."""
    if min(cut.D, len(cut.factors.s)) > svd.break_even_rank(cut.kind.shape):
        return one(cut)
    return cut.kind.pair(*svd.factors(cut.factors, cut.D), cut.bias)


def _dynamic(cut, options):
    """The chain of one dynamic layer."""
    kind, (U, s, Vt), D, bias = cut
    config = keras.layers.Dense.get_config(kind.layer) | options | {"D": D}
    weights = [kind.kernel, *bias, U[:, :D], s[:D], Vt[:D], np.int32(D)]
    return [(DynamicDense(**config), weights)]
