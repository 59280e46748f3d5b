"""Network in, network out: the Dense layers of any Keras model at rank D."""

import itertools

import numpy as np

from . import svd
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
    outputs = _output_layers(model)
    return [layer.name for layer in _dense_layers(model) if layer not in outputs]


def decompose(model, layers=None, inputs=None):
    """One SVD per weight matrix, which serves every D.

    Of a dynamic layer: the rank-D SVD that it computes with.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        layers: names of Dense layers; all but the output by default.
        inputs: None for the plain SVD. Else inputs of the model, as for `model.predict`: the
            SVD is whitened by C, the mean of xxᵀ over what these make each layer see
            (`helpers.svd.decompose_whitened`).

    Returns:
        {layer name: helpers.svd.SVD}.

    Raises:
        ValueError: a name is not that of a Dense layer of the model.
    """
    chosen = _chosen(model, layers)
    if inputs is None:
        return {layer.name: _decompose(layer) for layer in chosen}
    C = _second_moments(model, [layer.name for layer in chosen], inputs)
    return {layer.name: svd.decompose_whitened(_kernel(layer), C[layer.name]) for layer in chosen}


def truncate(model, D, layers=None, svds=None):
    """A copy of the model whose kernels are truncated, W_D = U[:, :D] diag(s[:D]) Vt[:D].

    Biases and all other layers are kept; the architecture is the same.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        D: singular values kept, one number for all layers or a sequence of one per layer; more
            than a matrix has keeps all.
        layers: names of Dense layers; those of `svds`, else all but the output by default.
        svds: from `decompose`, to reuse for several D; computed if missing.

    Returns:
        keras.Model.

    Raises:
        ValueError: D is no such number, or a name is not that of a Dense layer of the model.
    """
    cuts = _cuts(model, D, layers, svds)
    return _copy(model, {layer.name: _truncated(layer, *cut) for layer, cut in cuts})


def factorize(model, D, layers=None, svds=None, balanced=False):
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
        balanced: share the singular values between both factors (`helpers.svd.factors`), else
            Vt_D has them all.

    Returns:
        keras.Model.

    Raises:
        ValueError: D is no such number, or a name is not that of a Dense layer of the model.
    """
    cuts = _cuts(model, D, layers, svds)
    return _copy(model, {layer.name: _pair(layer, *cut, balanced) for layer, cut in cuts})


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
    return _copy(model, {layer.name: _dynamic(layer, *cut, **own) for layer, cut in cuts})


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


def _dense_layers(model):
    if not (isinstance(model, keras.Model) and model.built and hasattr(model, "outputs")):
        raise ValueError("expected a built Keras model, Sequential or functional.")
    for layer in model.layers:
        if isinstance(layer, keras.Model) and _dense_layers(layer):
            raise ValueError(
                f"the Dense layers in the nested model {layer.name!r} are out of reach."
            )
    dense = (keras.layers.Dense, DynamicDense)  # a subclass with a call of its own is none
    return [layer for layer in model.layers if type(layer) in dense]


def _decompose(layer):
    return layer.svd() if isinstance(layer, DynamicDense) else svd.decompose(_kernel(layer))


def _kernel(layer):
    """The matrix that the layer multiplies by."""
    if isinstance(layer, DynamicDense):
        return svd.truncate(layer.svd(), layer.D)
    return layer.get_weights()[0]


def _like(layer, **changes):
    """A plain Dense layer, not built, configured as this one but for the changes."""
    config = keras.layers.Dense.get_config(layer) | changes
    return keras.layers.Dense.from_config(config)


def _bias(layer):
    return [layer.bias] if layer.use_bias else []


def _cuts(model, D, layers, svds):
    """[(layer, (helpers.svd.SVD, rank))] for the arguments of `truncate`, checked."""
    if layers is None and svds is not None:
        layers = list(svds)
    chosen = _chosen(model, layers)
    ranks = per_layer([layer.name for layer in chosen], D)
    if svds is None:
        svds = decompose(model, list(ranks))
    if missing := [name for name in ranks if name not in svds]:
        raise ValueError(f"svds lack the layers {missing}.")
    return [(layer, (svds[layer.name], ranks[layer.name])) for layer in chosen]


def _truncated(layer, factors, D):
    """The chain of one Dense layer with kernel W_D."""
    return [(_like(layer), [svd.truncate(factors, D), *_bias(layer)])]


def _pair(layer, factors, D, balanced):
    """The chain of two Dense layers, n_in → D, linear, and D → n_out, if they save parameters."""
    if min(D, len(factors.s)) > svd.break_even_rank(layer.kernel.shape):
        return _truncated(layer, factors, D)
    U_D, Vt_D = svd.factors(factors, D, balanced)
    linear = {"use_bias": False, "activation": None, "activity_regularizer": None}
    first = _like(layer, name=f"{layer.name}_U", units=U_D.shape[1], **linear)
    return [(first, [U_D]), (_like(layer, name=f"{layer.name}_Vt"), [Vt_D, *_bias(layer)])]


def _dynamic(layer, factors, D, **own):
    """The chain of one dynamic layer."""
    D = min(D, len(factors.s))
    config = keras.layers.Dense.get_config(layer) | own | {"D": D}
    weights = [layer.kernel, *_bias(layer), factors.U[:, :D], factors.s[:D], factors.Vt[:D]]
    return [(DynamicDense(**config), weights)]


def _copy(model, chains):
    """A copy of the model, weights included, in which chains of layers replace those named.

    Args:
        model: a built Keras model, Sequential or functional.
        chains: {name of a layer with one input: [(new layer, its weights), …]}.
    """
    new = {name: [layer for layer, _ in chain] for name, chain in chains.items()}
    rebuild = _copy_sequential if isinstance(model, keras.Sequential) else _copy_functional
    copy = rebuild(model, new)
    for layer in model.layers:
        if layer.weights and layer.name not in new:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    for layer, weights in itertools.chain(*chains.values()):
        layer.set_weights(weights)
    return copy


def _copy_functional(model, new):
    def call(layer, *inputs, **arguments):
        if layer.name not in new:
            return layer(*inputs, **arguments)
        (x,) = inputs
        for part in new[layer.name]:
            x = part(x)
        return x

    return keras.models.clone_model(model, call_function=call)


def _copy_sequential(model, new):
    (x,) = model.inputs
    layers = [keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)]
    for layer in model.layers:
        layers += new.get(layer.name) or [type(layer).from_config(layer.get_config())]
    copy = keras.Sequential(layers, name=model.name)
    if model.compiled:  # as clone_model does
        copy.compile_from_config(model.get_compile_config())
    return copy


def _chosen(model, names):
    """The Dense layers of these names, or all but the output; a wrong name is an error."""
    dense = {layer.name: layer for layer in _dense_layers(model)}
    names = hidden_layers(model) if names is None else names
    if unknown := [name for name in names if name not in dense]:
        raise ValueError(f"{unknown} are not Dense layers of the model; these are: {list(dense)}.")
    return [dense[name] for name in names]


def _output_layers(model):
    """The Dense layers that give the model's outputs, at most through layers without weights."""
    found, names, feeds = [], _output_names(model), _feeds(model)
    while names:
        layer = model.get_layer(names.pop())
        if isinstance(layer, keras.layers.Dense):
            found.append(layer)
        elif not layer.weights:
            names += feeds[layer.name]
    return found


def _output_names(model):
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    return [name for name, *_ in _entries(model.get_config()["output_layers"])]


def _feeds(model):
    """{layer name: names of the layers that it takes its inputs from}."""
    if isinstance(model, keras.Sequential):
        names = [layer.name for layer in model.layers]
        return {name: names[:i][-1:] for i, name in enumerate(names)}
    layers = model.get_config()["layers"]
    return {layer["name"]: [*_histories(layer["inbound_nodes"])] for layer in layers}


def _entries(outputs):
    """[[layer name, …], …] of a config's outputs: one entry, or any structure of entries."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return [outputs] if isinstance(outputs[0], str) else [e for o in outputs for e in _entries(o)]


def _histories(nodes):
    """Names of the layers whose outputs stand in a config's inbound nodes."""
    if isinstance(nodes, dict):
        if "keras_history" in nodes:
            yield nodes["keras_history"][0]
        nodes = nodes.values()
    if not isinstance(nodes, (str, bytes)) and np.iterable(nodes):
        for node in nodes:
            yield from _histories(node)


def _second_moments(model, names, inputs, batch_size=5000):
    """{name: mean of xxᵀ} over the inputs x (…, n_in) of each named layer."""
    seen = {name: model.get_layer(name).input for name in names}
    probe = keras.Model(model.inputs[0] if len(model.inputs) == 1 else model.inputs, seen)
    sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for start in range(0, len(inputs), batch_size):
        for name, x in probe(inputs[start : start + batch_size], training=False).items():
            x = np.asarray(x).reshape(-1, x.shape[-1])
            sums[name] = sums[name] + (x.T @ x).astype(float)
            counts[name] += len(x)
    return {name: sums[name] / counts[name] for name in names}
