"""What goes into layers and comes out of them, while a model runs?"""

import contextlib
import functools
from typing import NamedTuple

import numpy as np

from ..backend import keras
from . import graph, kinds
from .flow import flow


class Watch(keras.layers.Layer):
    """Lets values through, and shows them to the function `note`; may keep them, too."""

    def __init__(self):
        super().__init__(autocast=False)
        self.supports_masking, self.note, self.kept = True, None, None

    def call(self, x):
        if self.note is not None:
            self.note(x)
        return x


class Watched(NamedTuple):
    """A copy of a model whose layers of interest stand between two Watches each."""

    model: keras.Model  # takes a list of inputs
    parts: dict  # {path: (Watch, the layer without activation as a matrix, Watch)}
    several: set  # paths of layers in several places, or in nested models

    def run(self, batch, tape=None):
        """Run the model on a batch, a list of tensors; a tf.GradientTape watches each z = x W + b.

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

    def alone(self, path):
        """The model, of which only this layer is watched."""
        return self._replace(parts={path: self.parts[path]})

    def up_to(self, path, inputs):
        """The part that ends before this layer; all of it where that stands in several places.

        Returns:
            Watched, and its inputs, a list of arrays: what went into the layer of `keep`, if all
            that this one sees comes through there, else those given, of the model.
        """
        before, part = self.parts[path][0], self.alone(path)
        if path in self.several:
            return part, inputs
        starts = [([w.output], [w.kept]) for w, _, _ in self.parts.values() if w.kept is not None]
        for tensors, arrays in [*starts, (self.model.inputs, inputs)]:
            with contextlib.suppress(ValueError):  # the model has another way to this layer
                return part._replace(model=keras.Model(tensors, before.output)), arrays

    def keep(self, path, xs):
        """Keep what went into this layer, a list of arrays, for `up_to` to start from."""
        for before, _, _ in self.parts.values():
            before.kept = None
        if xs and path not in self.several:
            self.parts[path][0].kept = np.concatenate(xs)


def watched(model, views):
    """Watch layers of a model, {path: the layer as a matrix} (`helpers.compress.kinds`)."""
    chains, parts = {}, {}
    for path, kind in views.items():
        before, behind = Watch(), Watch()
        product, rest = kind.watched()
        chains[path] = [(before, []), *product, (behind, []), *rest]
        parts[path] = before, kind.same_form(product[0][0]), behind
    copy = _with_lists(graph.copy(model, chains, compiled=False))
    calls = flow(model).calls
    several = {path for path in views if "/" in path or len(calls(path)) > 1}
    return Watched(copy, parts, several)


class Count(NamedTuple):
    """Multiply-adds of a layer for one input, over all its calls."""

    whole: int  # as it is
    first: int  # of its first factor, for each singular value and input
    second: int  # of its second factor, for each singular value and output


def multiply_adds(model):
    """{path: Count} of the layers in kinds.KINDS, from one run of the model on zeros.

    Raises:
        ValueError: the model does not say how large its inputs are.
    """
    shapes = [tuple(x.shape[1:]) for x in model.inputs]
    if any(None in shape for shape in shapes):
        raise ValueError(f"to count multiply-adds, inputs must be of known shape, not {shapes}.")
    twin = graph.copy(model, {}, compiled=False)
    layers = graph.leaves(twin).items()
    calls = {path: _counting(layer) for path, layer in layers if type(layer) in kinds.KINDS}
    zeros = [_zeros((1, *s), x.dtype) for s, x in zip(shapes, model.inputs, strict=True)]
    _with_lists(twin)([keras.ops.convert_to_tensor(x) for x in zeros])
    return {path: Count(*map(sum, zip(*counts, strict=True))) for path, counts in calls.items()}


def total(model):
    """Multiply-adds for one input, as `multiply_adds` counts them: n_in · n_out a row."""
    return sum(count.whole for count in multiply_adds(model).values())


def _zeros(shape, dtype):
    return np.full(shape, "") if dtype == "string" else np.zeros(shape, dtype)


def _counting(layer):
    """A list to which each call of the layer adds its multiply-adds, as a Count."""
    counts, kind = [], kinds.of(layer)

    def counted(call):
        @functools.wraps(call)
        def calling(*inputs, **options):
            z = call(*inputs, **options)
            x = inputs[0] if inputs else options["inputs"]
            counts.append(Count(*kind.count(z, x)))
            return z

        return calling

    layer.call, layer.quantized_call = map(counted, (layer.call, layer.quantized_call))
    return counts


def _with_lists(model):
    """The model with lists of inputs and outputs, whatever structure it had."""
    return keras.Model(model.inputs, model.outputs)
