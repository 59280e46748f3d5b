"""How is a network copied with other layers in the place of some of its own?"""

import itertools

import numpy as np

from . import svd
from .lab.backend import keras
from .layers import DynamicDense


def dense_layers(model):
    """The Dense and dynamic layers of a built model, in its order."""
    if not (isinstance(model, keras.Model) and model.built and hasattr(model, "outputs")):
        raise ValueError("expected a built Keras model, Sequential or functional.")
    for layer in model.layers:
        if isinstance(layer, keras.Model) and dense_layers(layer):
            raise ValueError(
                f"the Dense layers in the nested model {layer.name!r} are out of reach."
            )
    dense = (keras.layers.Dense, DynamicDense)  # a subclass with a call of its own is none
    return [layer for layer in model.layers if type(layer) in dense]


def kernel(layer):
    """The matrix that the layer multiplies by."""
    if isinstance(layer, DynamicDense):
        return svd.truncate(layer.svd(), layer.D)
    return layer.get_weights()[0]


def like(layer, **changes):
    """A plain Dense layer, not built, configured as this one but for the changes."""
    config = keras.layers.Dense.get_config(layer) | changes
    return keras.layers.Dense.from_config(config)


def bias(layer):
    """[the layer's bias], or [] if it has none."""
    return [layer.bias] if layer.use_bias else []


def split(model, layers):
    """A copy in which the activation of each of these Dense layers is a layer of its own.

    The copy's layer of the same name gives what went into the activation, z = x W + b.
    """
    chains = {}
    for layer in layers:
        linear = like(layer, activation=None, activity_regularizer=None)
        activation = keras.layers.Activation(layer.activation, name=f"{layer.name}_activation")
        chains[layer.name] = [(linear, [kernel(layer), *bias(layer)]), (activation, [])]
    return copy(model, chains)


def copy(model, chains):
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


def output_layers(model):
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
