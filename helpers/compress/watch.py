"""What goes into layers and comes out of them, while a model runs?"""

import contextlib
import functools
from typing import NamedTuple

import numpy as np

from ..backend import keras
from . import graph, kinds
from .flow import Flow, flow


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
    parts: dict  # {path: (Watch, the layer without activation as a matrix, Watch)}
    several: set  # paths of layers in several places, or in nested models
    flow: Flow
    kept: dict  # {call: (the tensor it gives, an array of its values)}, see `keep`

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

    def up_to(self, path, inputs):
        """The part that ends before this layer; all of it where that stands in several places.

        Returns:
            Watched, and its inputs, a list of arrays: what is kept on the ways to this layer, and
            those given, of the model, if there is another way.
        """
        before, part = self.parts[path][0], self._replace(parts={path: self.parts[path]})
        if path in self.several:
            return part, inputs
        needed = self.flow.back_to([self._fed_by(path)], self.kept)
        images = [*zip(self.model.inputs, inputs, strict=True)]
        nearest = [self.kept[call] for call in needed - {None}] + images * (None in needed)
        for pairs in (nearest, images):
            tensors, arrays = map(list, zip(*pairs, strict=True))
            with contextlib.suppress(ValueError):  # one of several outputs of a call was kept
                return part._replace(model=keras.Model(tensors, before.output)), arrays

    def keep(self, path, x):
        """Keep what went into this layer, an array or None, for `up_to` to start from.

        What the rest of the model can do without, goes.
        """
        source = None if path in self.several or x is None else self._fed_by(path)
        needed = self.flow.back_to(self.flow.outputs, {*self.kept, source})
        for call in {*self.kept} - needed:
            del self.kept[call]
        if source in needed - {None}:
            self.kept[source] = self.parts[path][0].input, x

    def _fed_by(self, path):
        """The call that gives the inputs of a layer."""
        return self.flow.fed_by[path, 0][0]


def watched(model, views):
    """Watch layers of a model, {path: the layer as a matrix} (`helpers.compress.kinds`)."""
    chains, parts = {}, {}
    for path, kind in views.items():
        before, behind = Watch(), Watch()
        product, rest = kind.watched()
        chains[path] = [(before, []), *product, (behind, []), *rest]
        parts[path] = before, kind.same_form(product[0][0]), behind
    copy = _with_lists(graph.copy(model, chains, compiled=False))
    calls = flow(model)
    several = {path for path in views if "/" in path or len(calls.calls(path)) > 1}
    return Watched(copy, parts, several, calls, {})


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
