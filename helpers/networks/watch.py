"""What goes into layers and comes out of them, while a model runs?"""

import contextlib
from typing import NamedTuple

import numpy as np

from ..lab.backend import keras
from . import graph, kinds


class Watch(keras.layers.Layer):
    """Lets values through, and shows them to the function `note`."""

    def __init__(self):
        super().__init__(autocast=False)
        self.supports_masking, self.note = True, None

    def call(self, x):
        if self.note is not None:
            self.note(x)
        return x


class Watched(NamedTuple):
    """A copy of a model whose layers of interest stand between two Watches each."""

    model: keras.Model  # takes a list of inputs
    parts: dict  # {path: (Watch, the layer without activation, Watch)}

    def run(self, batch, tape=None):
        """Run the model.

        Args:
            batch: a list of tensors, one for each input.
            tape: a tf.GradientTape to watch what comes out, z = x W + b.

        Returns:
            its outputs, a list; what went in, x, and came out, z: {path: [one a call]} each.
        """
        xs, zs = ({path: [] for path in self.parts} for _ in range(2))

        def noting(path):
            def note(z):
                if tape is not None:
                    tape.watch(z)
                zs[path].append(z)

            return note

        for path, (before, _, behind) in self.parts.items():
            before.note, behind.note = xs[path].append, noting(path)
        outputs = self.model(batch, training=False)
        for before, _, behind in self.parts.values():
            before.note = behind.note = None
        return keras.tree.flatten(outputs), xs, zs

    def up_to(self, path):
        """The part that ends with this layer; all of it where that stands in several places."""
        model = self.model
        if "/" not in path:
            with contextlib.suppress(AttributeError):  # it has several outputs
                model = keras.Model(model.inputs, self.parts[path][2].output)
        return Watched(model, {path: self.parts[path]})


def watched(model, paths):
    """Watch layers of a model.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        paths: of compressible layers.

    Returns:
        Watched.
    """
    chains, parts = {}, {}
    originals = graph.leaves(model)
    for path in paths:
        kind = kinds.of(originals[path])
        before, behind = Watch(), Watch()
        ((layer, weights),) = kind.one(kind.matrix(), kind.bias, **kind.bare)
        activation = getattr(originals[path], "activation", None)
        activation = keras.layers.Activation(activation, dtype=layer.dtype_policy)
        chains[path] = [(before, []), (layer, weights), (behind, []), (activation, [])]
        parts[path] = before, layer, behind
    return Watched(_with_lists(graph.copy(model, chains, compiled=False)), parts)


def outputs(model):
    """{path: [what it gives, one array a call]} for one input of zeros, of layers in kinds.KINDS.

    Raises:
        ValueError: the model does not say how large its inputs are.
    """
    shapes = [tuple(x.shape[1:]) for x in model.inputs]
    if any(None in shape for shape in shapes):
        raise ValueError(f"to count multiply-adds, inputs must be of known shape, not {shapes}.")
    found, chains = {}, {}
    for path, layer in graph.leaves(model).items():
        if type(layer) in kinds.KINDS:
            found[path], watch = [], Watch()
            again = type(layer).from_config(layer.get_config())
            chains[path] = [(again, layer.get_weights()), (watch, [])]
    twin = _with_lists(graph.copy(model, chains, compiled=False))
    for path, (_, (watch, _)) in chains.items():
        watch.note = found[path].append
    zeros = [np.zeros((1, *s), x.dtype) for s, x in zip(shapes, model.inputs, strict=True)]
    twin([keras.ops.convert_to_tensor(x) for x in zeros])
    return found


def multiply_adds(model):
    """{path: multiply-adds for one input} of the layers in kinds.KINDS, over all calls.

    Raises:
        ValueError: the model does not say how large its inputs are.
    """
    layers = graph.leaves(model)
    return {
        path: sum(map(kinds.of(layers[path]).multiply_adds, given))
        for path, given in outputs(model).items()
    }


def _with_lists(model):
    """The model with lists of inputs and outputs, whatever structure it had."""
    return keras.Model(model.inputs, model.outputs)
