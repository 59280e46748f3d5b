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
# Layers that treat each neuron alone: those that keep its place, and those that may move it.
IN_PLACE = [L.Activation, L.ReLU, L.LeakyReLU, L.ELU, L.Identity, L.Rescaling]
IN_PLACE += [L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.SpatialDropout3D]
IN_PLACE += [L.AlphaDropout, L.GaussianNoise, L.GaussianDropout]
IN_PLACE += [L.ActivityRegularization, L.BatchNormalization]
SPATIAL = ["MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling"]
SPATIAL += ["ZeroPadding", "Cropping", "UpSampling"]
MOVING = [getattr(L, f"{name}{n}D") for name in SPATIAL for n in (1, 2, 3)]
MOVING += [L.Flatten, L.Reshape]


class Link(NamedTuple):
    """From the neurons of a layer to the one layer with a matrix that they feed."""

    consumer: str  # its path
    count: int  # of neurons
    entries: np.ndarray  # for each input along the consumer's kernel, the neuron it comes from
    vectors: dict  # {path of a BatchNormalization on the way: the neuron of each of its entries}
    shapes: dict  # {path of a Reshape on the way: its target for any number of neurons}

    def columns(self, n_in):
        """The columns of the consumer's rows (n_in) that come from each neuron, (count, c)."""
        places = np.arange(n_in).reshape(-1, len(self.entries))
        by_neuron = np.argsort(self.entries, kind="stable").reshape(self.count, -1)
        return np.moveaxis(places[:, by_neuron], 1, 0).reshape(self.count, -1)


class Stay(Exception):
    """Why the neurons of a layer stay."""


def links(model, paths):
    """{path: Link} of these layers, if their neurons can go, and {path: reason} if they stay."""
    layers, calls, found, reasons = graph.leaves(model), flow(model), {}, {}
    for path in paths:
        try:
            found[path] = _link(path, layers, calls)
        except Stay as reason:
            reasons[path] = f"its neurons stay: {reason}"
    return found, reasons


def _link(path, layers, calls):
    own, kind = calls.calls(path), kinds.of(layers[path])
    if kind.stays:
        raise Stay(kind.stays)
    ends = {_follow(call, layers, calls) for call in own}
    if len(ends) > 1:
        consumers = sorted({consumer for consumer, _ in ends})
        raise Stay(f"they go to {' and '.join(consumers)} on different ways")
    ((consumer, between),) = ends
    bound = [p for p in between if layers[p].weights or type(layers[p]) is L.Reshape]
    if consumer == path:
        raise Stay("they feed their own layer")
    for other in (consumer, *bound):
        if len(calls.calls(other)) != len(own):
            raise Stay(f"{other} takes those of other layers, too")
    for other in (*between, consumer):
        if other.rpartition("/")[0] != path.rpartition("/")[0]:
            raise Stay(f"they go to {other}, in another model")
    if not _is_alone(layers[path]):
        raise Stay("their activation compares them with one another")
    return _marked(kind, [(p, layers[p]) for p in between], consumer, layers)


def _follow(call, layers, calls):
    """The layer with a matrix that a call's outputs reach, and those on the way."""
    between = []
    while True:
        if call in calls.outputs:
            raise Stay("they are outputs of the model")
        before, after = call, calls.after(call)
        if len(after) != 1:
            raise Stay("they go to " + (" and ".join(path for path, _ in after) or "nothing"))
        (call,) = after
        if calls.fed_by[call].index(before):
            raise Stay(f"they go to {call[0]}, not as its inputs")
        layer = layers.get(call[0])
        if layer is not None and not kinds.refusal(layer):
            return call[0], tuple(between)
        if type(layer) not in (*IN_PLACE, *MOVING) or not _is_alone(layer):
            raise Stay(f"they go to {call[0]}")
        between.append(call[0])


def _is_alone(layer):
    """Does its activation treat each neuron alone? Then nothing changes if some are left out."""
    activation = getattr(layer, "activation", None) or keras.activations.linear
    z = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    some, every = (np.asarray(activation(keras.ops.convert_to_tensor(x))) for x in (z[:, :3], z))
    return some.shape == (5, 3) and np.allclose(some, every[:, :3], atol=1e-6)


def _marked(kind, between, consumer, layers):
    """The Link that is seen where each neuron gives its own number, from 1, wherever it goes."""
    consumer_kind, count = kinds.of(layers[consumer]), kind.kernel.shape[kind.out_axis]
    shape = [1, *(size or 8 for size in kind.layer.output.shape[1:])]
    along = np.ones(len(shape), int)
    along[kind.axis] = count
    marks = np.broadcast_to(np.arange(1, count + 1).reshape(along), shape).astype("float32")
    vectors, shapes = {}, {}
    for path, layer in between:
        if type(layer) is L.BatchNormalization:
            vectors[path] = _neurons(marks, layer.axis, count)
        elif np.ndim(getattr(layer, "scale", 0)) or np.ndim(getattr(layer, "offset", 0)):
            raise Stay(f"they go to {path}")
        elif type(layer) in MOVING:
            move = _with(layer, [], dtype="float32")[0]
            moved, share = (np.asarray(move(a.astype("float32"))) for a in (marks, marks > 0))
            marks = np.rint(moved / np.maximum(share, 1e-9))  # padding has its share of a mean
        if type(layer) is L.Reshape:
            varies = [a for a in range(1, marks.ndim) if np.ptp(marks, axis=a).any()]
            if len(varies) > 1 or None in kind.layer.output.shape[1:]:
                raise Stay(f"{path} mixes them")
            shapes[path] = tuple(-1 if a in varies else n for a, n in enumerate(marks.shape))[1:]
    entries = _neurons(marks, consumer_kind.axis, count)
    if len(entries) != consumer_kind.kernel.shape[consumer_kind.in_axis]:
        raise Stay("they are mixed on their way")
    return Link(consumer, count, entries, vectors, shapes)


def _neurons(marks, axis, count):
    """The neuron whose mark stands at each place along an axis; beside it there may be padding."""
    places = np.moveaxis(marks, axis, -1).reshape(-1, marks.shape[axis])
    found = places.max(0).astype(int)
    often = np.bincount(found, minlength=count + 1)
    if not ((places == found) | (places == 0)).all() or often[0] or np.ptp(often[1:]):
        raise Stay("they are mixed on their way")
    return found - 1


def narrow(model, links, kept):
    """A copy of the model, not compiled, without the neurons that are not kept.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        links: {path: Link}.
        kept: {path: numbers of the neurons that stay, ascending}.
    """
    layers, chains = graph.leaves(model), {}
    inputs = {links[path].consumer: path for path in kept}
    for path in dict.fromkeys([*kept, *inputs]):
        kind = kinds.of(layers[path])
        kernel, bias = np.asarray(kind.kernel), [np.asarray(b) for b in kind.bias]
        if path in kept:
            kernel = np.take(kernel, kept[path], axis=kind.out_axis)
            bias = [b[kept[path]] for b in bias]
        if path in inputs:
            source = inputs[path]
            stays = np.isin(links[source].entries, kept[source])
            kernel = np.compress(stays, kernel, axis=kind.in_axis)
        chains[path] = [kind.resized(kernel, bias)]
    for path, neurons in kept.items():
        for other, entries in links[path].vectors.items():
            stays = np.isin(entries, neurons)
            chains[other] = [_with(layers[other], [w[stays] for w in layers[other].get_weights()])]
        for other, target in links[path].shapes.items():
            chains[other] = [_with(layers[other], [], target_shape=target)]
    return graph.copy(model, chains, compiled=False)


def _with(layer, weights, **changes):
    return type(layer).from_config(layer.get_config() | changes), weights
