"""Which neurons can go, and how is a network without them?

A neuron, or a channel of a convolution, can go where all that its layer gives reaches one layer
with a matrix, through layers that treat each neuron alone: a selection of neurons passes through
these, relu(z)[P] = relu(z[P]), where a rotation would not.
"""

from typing import NamedTuple

import numpy as np

from ..backend import keras
from . import graph, kinds
from .flow import flow

L = keras.layers
# Layers that treat each neuron alone, and whether they move neurons to other places.
ALONE = {
    **dict.fromkeys([L.Activation, L.ReLU, L.LeakyReLU, L.ELU, L.Identity, L.Rescaling], False),
    **dict.fromkeys([L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.AlphaDropout], False),
    **dict.fromkeys([L.GaussianNoise, L.GaussianDropout, L.ActivityRegularization], False),
    L.BatchNormalization: False,
    **dict.fromkeys([L.MaxPooling1D, L.MaxPooling2D], True),
    **dict.fromkeys([L.AveragePooling1D, L.AveragePooling2D], True),
    **dict.fromkeys([L.GlobalMaxPooling1D, L.GlobalMaxPooling2D], True),
    **dict.fromkeys([L.GlobalAveragePooling1D, L.GlobalAveragePooling2D], True),
    **dict.fromkeys([L.ZeroPadding1D, L.ZeroPadding2D, L.Cropping1D, L.Cropping2D], True),
    **dict.fromkeys([L.UpSampling1D, L.UpSampling2D, L.Flatten, L.Reshape], True),
}


class Link(NamedTuple):
    """From the neurons of a layer to the only layer that they feed."""

    consumer: str  # its path
    between: tuple  # paths of the layers on the way
    count: int  # of neurons
    entries: np.ndarray  # of the consumer's inputs along its kernel: the neuron each comes from

    def columns(self, n_in):
        """For each neuron, the columns of the consumer's rows (n_in) that come from it: (m, c)."""
        places = np.arange(n_in).reshape(-1, len(self.entries))
        by_neuron = np.argsort(self.entries, kind="stable").reshape(self.count, -1)
        return np.moveaxis(places[:, by_neuron], 0, 1).reshape(self.count, -1)


class _Stay(Exception):
    """Why the neurons of a layer stay."""


def links(model, paths):
    """Which of these layers' neurons can go, and why the others stay.

    Args:
        model: a built Keras model, Sequential or functional.
        paths: of compressible layers.

    Returns:
        {path: Link}, {path: reason}.
    """
    moves, found, reasons = _Moves(model), {}, {}
    for path in paths:
        try:
            found[path] = moves.link(path)
        except _Stay as reason:
            reasons[path] = str(reason)
    return found, reasons


class _Moves:
    """Where the neurons of a model's layers go."""

    def __init__(self, model):
        self.layers, self.flow = graph.leaves(model), flow(model)
        self.able = graph.compressible(model)

    def link(self, path):
        calls = self.flow.calls(path)
        ends = {self._follow(call) for call in calls}
        if len(ends) > 1:
            raise _Stay("they go to different layers from different places")
        ((consumer, between),) = ends
        kept = [p for p in between if self.layers[p].weights or type(self.layers[p]) is L.Reshape]
        for other in (consumer, *kept):
            if len(self.flow.calls(other)) != len(calls):
                raise _Stay(f"{other} takes others', too")
        if consumer == path:
            raise _Stay("they feed the layer itself")
        if path.rpartition("/")[0] != consumer.rpartition("/")[0]:
            raise _Stay(f"{consumer} is in another model")
        kind = kinds.of(self.able[path])
        if not _is_alone(getattr(self.able[path], "activation", None)):
            raise _Stay("its activation compares them with one another")
        entries = _entries(kind, [self.layers[p] for p in between], kinds.of(self.able[consumer]))
        return Link(consumer, between, kind.kernel.shape[-1], entries)

    def _follow(self, call):
        """The layer with a matrix that a call reaches, and the paths of those on the way."""
        between = []
        while True:
            after = self.flow.after(call)
            if call in self.flow.outputs:
                raise _Stay("they are outputs of the model")
            if len(after) != 1:
                names = " and ".join(dict.fromkeys(path for path, _ in after))
                raise _Stay(f"they go to {names}")
            (call,) = after
            layer = self.layers.get(call[0])
            if call[0] in self.able:
                return call[0], tuple(between)
            if type(layer) not in ALONE or not _is_alone(getattr(layer, "activation", None)):
                raise _Stay(f"they go to {call[0]}")
            between.append(call[0])


def _is_alone(activation):
    """Does an activation treat each neuron alone? Seen by leaving some away."""
    if activation is None:
        return True
    z = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    some, every = (np.asarray(activation(keras.ops.convert_to_tensor(x))) for x in (z[:, :3], z))
    return some.shape == (5, 3) and np.allclose(some, every[:, :3], atol=1e-6)


def _entries(kind, between, consumer):
    """For each input along the consumer's kernel, the neuron it comes from: seen by marks."""
    axis = kind.axis
    marks = np.arange(1.0, 1 + kind.kernel.shape[-1], dtype="float32")
    shape = [size or 8 for size in kind.layer.output.shape]
    shape[0] = 1
    marks = np.broadcast_to(np.moveaxis(np.expand_dims(marks, [*range(len(shape) - 1)]), -1, axis), shape)
    for layer in between:
        if type(layer) is L.BatchNormalization and layer.axis not in (axis, axis % marks.ndim):
            raise _Stay(f"{layer.name} normalizes along another axis")
        if ALONE[type(layer)]:
            marks = np.rint(layer(marks))
            axis = _axis(marks, axis)
    marks = np.moveaxis(marks, consumer.axis, -1).reshape(-1, consumer.kernel.shape[-2])
    neurons = marks.max(0)
    if not ((marks == neurons) | (marks == 0)).all() or not neurons.all():
        raise _Stay("they are mixed on their way")
    return neurons.astype(int) - 1
