"""What does each layer see, and what does the loss feel in it?"""

from typing import NamedTuple

import numpy as np

from . import graph
from .lab.backend import keras, tf
from .progress import Line

SAMPLES = 10_000  # with all 55,000, accuracies of notebook 1 differ by about a tenth of a point
BATCH_SIZE = 1000
LEAST = 100  # inputs that a layer must have seen for its C to mean anything
QUIET = 5  # seconds before there is a line of progress


class Moments(NamedTuple):
    """C = E[xᵀx] (n_in, n_in) over a layer's inputs x, and Γ = E[gᵀg] (n_out, n_out), or None."""

    C: np.ndarray
    Gamma: np.ndarray


class Regression(NamedTuple):
    """Of inputs x of a layer in one network and its outputs z in another: means and covariances."""

    x: np.ndarray  # mean (n_in,)
    z: np.ndarray  # mean (n_out,)
    C: np.ndarray  # cov(x) (n_in, n_in)
    X: np.ndarray  # cov(x, z) (n_in, n_out)


def observe(model, names, inputs, loss=None, samples=SAMPLES):
    """C and Γ of Dense layers, measured in one pass over the inputs.

        C = E[xᵀx],    Γ = E[gᵀg],    g = ∂loss/∂z,    z = x W + b

    The labels of the loss are drawn from the network's own answers, which makes the Γ of all
    layers the blocks of its Fisher information: how much the loss feels a change of z.

    Args:
        model: a built Keras model, Sequential or functional; not changed.
        names: of Dense layers.
        inputs: of the model, as for `model.predict`.
        loss: a Keras loss or its name: cross-entropy or mean squared error; None: no Γ.
        samples: how many of the inputs are used, evenly spread.

    Returns:
        {layer name: Moments}.

    Raises:
        ValueError: inputs do not fit the model, or are too few; labels cannot be drawn.

    Source: Martens and Grosse, Optimizing neural networks with Kronecker-factored approximate
    curvature, ICML 2015.
    """
    inputs = _chosen(model, inputs, samples)
    surprise = None if loss is None else _surprise(loss)
    split = graph.split(model, [model.get_layer(name) for name in names])
    layers = {name: split.get_layer(name) for name in names}
    tensors = [(layer.input, layer.output) for layer in layers.values()]
    probe = keras.Model(split.inputs, [split.outputs, tensors])
    sums = {name: [0.0, 0.0] for name in names}
    rows = dict.fromkeys(names, 0)
    for k, batch in enumerate(_batches(inputs, "measuring what the layers see")):
        with tf.GradientTape() as tape:
            outputs, pairs = probe(batch, training=False)
            felt = 0.0 if surprise is None else sum(surprise(out, k) for out in outputs)
        xs, zs = zip(*pairs, strict=True) if pairs else ((), ())
        parts = [(x,) for x in xs]
        if surprise is not None:
            parts = zip(xs, tape.gradient(felt, zs, unconnected_gradients="zero"), strict=True)
        for name, seen in zip(names, parts, strict=True):
            for i, part in enumerate(seen):
                part = np.asarray(part).reshape(-1, part.shape[-1])
                sums[name][i] += (part.T @ part).astype(float)
            rows[name] += len(part)
    for name, seen in rows.items():
        least = min(LEAST, layers[name].kernel.shape[0])
        if seen < least:
            raise ValueError(f"{seen} inputs are too few to tell what {name} sees: give {least}.")
    return {
        name: Moments(C / rows[name], None if surprise is None else Gamma / rows[name])
        for name, (C, Gamma) in sums.items()
    }


def regression(before, after, layer, inputs, samples=SAMPLES):
    """Moments of a layer's inputs x in the network `after` and its outputs z in `before`.

    Args:
        before, after: from `helpers.graph.split`, of one model.
        layer: the layer there, which says whether it has a bias; without one nothing is centred.
        inputs, samples: as for `observe`.

    Returns:
        Regression.
    """
    inputs = _chosen(before, inputs, samples)
    z_of = keras.Model(before.inputs, before.get_layer(layer.name).output)
    x_of = keras.Model(after.inputs, after.get_layer(layer.name).input)
    n, parts = 0, [0.0, 0.0, 0.0, 0.0]
    for batch in _batches(inputs, f"cutting {layer.name}"):
        x, z = (np.asarray(net(batch, training=False)) for net in (x_of, z_of))
        x, z = (part.reshape(-1, part.shape[-1]) for part in (x, z))
        n += len(x)
        for i, part in enumerate((x.sum(0), z.sum(0), x.T @ x, x.T @ z)):
            parts[i] = parts[i] + part.astype(float)
    x, z, C, X = (part / n for part in parts)
    if not layer.use_bias:
        x, z = 0 * x, 0 * z
    return Regression(x, z, C - np.outer(x, x), X - np.outer(x, z))


def _chosen(model, inputs, samples):
    """So many of the inputs, evenly spread: a list of arrays, one for each input of the model."""
    arrays = [np.asarray(array) for array in keras.tree.flatten(inputs)]
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    found = [array.shape[1:] for array in arrays]
    if len(found) != len(shapes) or any(
        len(a) != len(b) or any(n not in (None, m) for n, m in zip(a, b, strict=True))
        for a, b in zip(shapes, found, strict=True)
    ):
        raise ValueError(f"the model takes inputs of shape {shapes}, these are {found}.")
    n = len(arrays[0])
    every = np.linspace(0, n, min(samples, n), endpoint=False).astype(int)
    return [array[every] for array in arrays]


def _batches(arrays, doing):
    """Batches of the arrays, with a line of progress if they take long."""
    line, n = Line(after=QUIET), len(arrays[0])
    for start in range(0, n, BATCH_SIZE):
        yield [tf.constant(array[start : start + BATCH_SIZE]) for array in arrays]
        line.say(f"{doing}: {min(start + BATCH_SIZE, n):,} of {n:,} inputs")


def _surprise(loss):
    """A function (outputs, seed) → the loss, summed, at labels drawn from the outputs."""
    loss = keras.losses.get(loss)
    logits = isinstance(loss, keras.losses.Loss) and loss.get_config().get("from_logits", False)

    def categorical(outputs, seed):
        log_p = tf.nn.log_softmax(outputs) if logits else tf.math.log(outputs + 1e-7)
        rows = tf.reshape(log_p, (-1, log_p.shape[-1]))
        drawn = tf.random.stateless_categorical(rows, 1, (seed, 0))
        return -tf.reduce_sum(tf.gather(rows, drawn, batch_dims=1))

    def binary(outputs, seed):
        p = tf.sigmoid(outputs) if logits else outputs
        drawn = tf.random.stateless_uniform(tf.shape(p), (seed, 0), dtype=p.dtype) < p
        p = tf.clip_by_value(p, 1e-7, 1 - 1e-7)
        return -tf.reduce_sum(tf.math.log(tf.where(drawn, p, 1 - p)))

    def squared(outputs, seed):
        drawn = tf.random.stateless_normal(tf.shape(outputs), (seed, 0), dtype=outputs.dtype)
        return tf.reduce_sum((tf.stop_gradient(outputs + drawn) - outputs) ** 2) / 2

    losses = keras.losses
    drawing = {
        losses.CategoricalCrossentropy: (losses.categorical_crossentropy, categorical),
        losses.SparseCategoricalCrossentropy: (losses.sparse_categorical_crossentropy, categorical),
        losses.BinaryCrossentropy: (losses.binary_crossentropy, binary),
        losses.MeanSquaredError: (losses.mean_squared_error, squared),
    }
    for kind, (function, draw) in drawing.items():
        if type(loss) is kind or loss is function:
            return draw
    allowed = ", ".join(kind.__name__ for kind in drawing)
    raise ValueError(f"Γ needs a loss whose labels can be drawn, {allowed}, not {loss!r}.")
