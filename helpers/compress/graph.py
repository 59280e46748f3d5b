"""How is a network copied with other layers in the place of some of its own?

Layers of nested models are named by their path, "backbone/conv_1"; Keras allows no slash in a name.
"""

import contextlib
import itertools
import warnings

import numpy as np

from ..backend import keras
from ..layers import DynamicDense
from . import kinds


def is_network(layer):
    """Is it a Sequential or functional model, whose graph can be copied?"""
    is_graph = isinstance(layer, keras.Model) and layer.built and hasattr(layer, "outputs")
    # A subclass may be made as a functional model is, and then compute something else.
    return is_graph and type(layer).call in (keras.Sequential.call, FUNCTIONAL.call)


FUNCTIONAL = type(keras.Model(x := keras.Input((1,)), x))


def leaves(model):
    """{path: layer} of a built model, nested ones opened, each layer once, in its order."""
    if not is_network(model):
        raise ValueError("expected a built Keras model, Sequential or functional.")
    found = {}
    for layer in model.layers:
        inside = leaves(layer) if is_network(layer) else {"": layer}
        for path, leaf in inside.items():
            if leaf not in found.values():
                found[f"{layer.name}/{path}" if path else layer.name] = leaf
    return found


def compressible(model):
    """{path: layer} of the layers of a built model that multiply by one matrix."""
    return {path: layer for path, layer in leaves(model).items() if not kinds.refusal(layer)}


def dynamic_layers(model):
    """{path: helpers.layers.DynamicDense} of a built model."""
    layers = leaves(model).items()
    return {path: layer for path, layer in layers if isinstance(layer, DynamicDense)}


def why_not(model, path):
    """Why the layer of this path, or what there is instead, cannot be compressed."""
    layer = leaves(model).get(path)
    return kinds.refusal(layer) if layer is not None else "no layer has this name"


def copy(model, chains, compiled=True):
    """A copy of the model, weights included, in which chains of layers replace those named.

    Chains are {path of a layer: [(new layer, its weights), …]}; the layer goes if that is empty.
    If `compiled`, the copy is compiled as the model is (`compile_as`).

    Raises:
        ValueError: a layer cannot be made anew, or two layers hold the same weights.
    """
    originals = leaves(model)
    _refuse_tied(originals)
    new = {id(originals[path]): [layer for layer, _ in chain] for path, chain in chains.items()}
    twin = _copy(model, new)
    for path, layer in originals.items():
        if path not in chains and id(layer) in new:  # where inputs come in is made by Keras
            _hand_over(layer, new[id(layer)][0])
    for layer, weights in itertools.chain(*chains.values()):
        put(layer, weights)
    if compiled:
        compile_as(model, twin)
    return twin


def compile_as(model, twin):
    """Compile a copy as the model is, if it is, with an optimizer of its own, not yet built.

    A loss or a metric that Keras cannot make anew from its configuration is shared with the model.
    If that is the optimizer, the copy stays uncompiled, and a warning says so.
    """
    if not model.compiled:
        return
    options = dict(model._compile_config.config)  # private: the public way gives no objects
    for name, given in options.items():
        with contextlib.suppress(Exception):  # the user's own may raise anything
            again = keras.saving.serialize_keras_object(given)
            options[name] = keras.saving.deserialize_keras_object(again)
    if options["optimizer"] is model.optimizer:
        warnings.warn("the optimizer cannot be made anew: compile the copy.", stacklevel=2)
        return
    twin.compile(**options)


def _refuse_tied(layers):
    """Refuse {path: layer} in which two hold one variable, which copies of them would not."""
    holds = {}
    for path, layer in layers.items():
        for variable in layer.weights:
            if (other := holds.setdefault(id(variable), path)) != path:
                raise ValueError(f"{other} and {path} hold the same weights: untie them first.")


def _hand_over(layer, twin):
    """Give a copy of a layer its weights, and what Normalization makes of them."""
    if layer.weights:
        twin.set_weights(layer.get_weights())
    if isinstance(layer, keras.layers.Normalization):
        twin.finalize_state()


def put(layer, weights):
    """Set the weights of a layer, in whatever shape they come."""
    layer.set_weights(
        [np.reshape(new, old.shape) for new, old in zip(weights, layer.weights, strict=True)]
    )


def _anew(layer):
    """A layer of the same configuration, and vocabulary, which is looked up while it is called."""
    try:
        twin = type(layer).from_config(layer.get_config())
        if hasattr(layer, "set_vocabulary"):
            twin.set_vocabulary(layer.get_vocabulary())
        return twin
    except Exception as error:  # a layer of the user's may raise anything, and Lambda refuses
        reason = f"cannot be made anew from its configuration: {error}"
        raise ValueError(f"the layer {layer.name} {reason}") from error


def _copy(model, new):
    """A copy of the model's graph, not compiled.

    new, {id of a layer: [its new layers]}, is filled on the way.
    """

    def parts(layer):
        # What stands in several places, or models, is one layer in the copy, too.
        if id(layer) not in new:
            new[id(layer)] = [_copy(layer, new) if is_network(layer) else _anew(layer)]
        return new[id(layer)]

    if isinstance(model, keras.Sequential):
        (x,) = model.inputs
        start = keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)
        layers = itertools.chain(*(parts(layer) for layer in model.layers))
        return keras.Sequential([start, *layers], name=model.name)
    chains = {}

    def first(layer):
        chain = parts(layer)
        start = chain[0] if chain else keras.layers.Identity()  # not called: the layer goes
        chains[id(start)] = chain
        return start

    def call(layer, *inputs, **arguments):
        chain = chains[id(layer)]
        if chain == [layer]:
            return layer(*inputs, **arguments)
        x, *others = inputs or [arguments.pop(next(iter(arguments)))]
        for part in chain[:-1]:
            x = part(x)
        return chain[-1](x, *others, **arguments) if chain else x

    plain = keras.Model(model.input, model.output, name=model.name)  # clone_model would compile
    return keras.models.clone_model(plain, clone_function=first, call_function=call)
