"""How large is a loss at labels drawn from the network's own answers?"""

import math

from ..backend import keras, tf


def surprises(model, loss, weights=None):
    """For each output of a model, a function (outputs, seed) → the root of its loss's weight times
    its surprise, −log p of drawn labels, summed: squares of its gradients are in units of the loss.

    A loss is one for all outputs, a list, or a dict by their names, as `model.compile` takes it;
    so are the weights. An output whose loss is None is not felt.

    Raises:
        ValueError: these are not as many as the outputs, or name others; labels cannot be drawn.
    """
    names = _names(model)
    losses, weights = _by_output(names, "losses", loss), _by_output(names, "weights", weights)
    if not any(one is not None for one in losses):
        raise ValueError(f"none of the outputs {names} has a loss.")

    def felt(name, one, weight):
        if one is None:
            return lambda outputs, seed: 0.0
        surprise, weight = _surprise(one, name), 1.0 if weight is None else float(weight)

        def rooted(outputs, seed):
            total, parts = surprise(outputs, seed)
            return (weight / parts) ** 0.5 * total

        return rooted

    return [felt(*each) for each in zip(names, losses, weights, strict=True)]


def _names(model):
    """Of a model's outputs, in their order."""
    output = getattr(model, "output", None)
    if isinstance(output, dict):
        return sorted(output)
    return getattr(model, "output_names", [model.layers[-1].name])  # a Sequential has none


def _by_output(names, what, given):
    """[what is given for each output]."""
    if isinstance(given, dict):
        if unknown := [name for name in given if name not in names]:
            raise ValueError(f"there are {what} for {unknown}; the outputs are {names}.")
        return [given.get(name) for name in names]
    if not isinstance(given, (list, tuple)):
        return [given] * len(names)
    if len(given) != len(names):
        raise ValueError(f"there are {len(given)} {what} for the outputs {names}.")
    return [*given]


def _surprise(loss, name):
    """A function (outputs, seed) → −log p of labels drawn from the outputs, summed, and of how many
    numbers of one input the loss takes the mean (half as many of squares, which it does not halve).
    """
    loss = keras.losses.get(loss)
    options = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    logits, axis = options.get("from_logits", False), options.get("axis", -1)

    def refuse_if(improbable):
        if improbable:
            raise ValueError(f"the output {name} is no probability: logits need from_logits=True.")

    def categorical(outputs, seed):
        outputs = keras.ops.moveaxis(outputs, axis, -1)
        if not logits:
            off = tf.reduce_max(abs(tf.reduce_sum(outputs, axis=-1) - 1))
            refuse_if(off > 0.02 or tf.reduce_min(outputs) < 0)
        log_p = tf.nn.log_softmax(outputs) if logits else tf.math.log(outputs + 1e-7)
        rows = tf.reshape(log_p, (-1, log_p.shape[-1]))
        # Gumbel's maximum: what stateless_categorical draws changes with the number of threads.
        u = tf.random.stateless_uniform(tf.shape(rows), (seed, 0), dtype=rows.dtype)
        drawn = tf.argmax(rows - tf.math.log(-tf.math.log(u)), axis=1)
        parts = len(rows) / len(outputs)
        return -tf.reduce_sum(tf.gather(rows, drawn, batch_dims=1)), parts

    def binary(outputs, seed):
        p = tf.sigmoid(outputs) if logits else outputs
        refuse_if(tf.reduce_min(p) < 0 or tf.reduce_max(p) > 1)
        drawn = tf.random.stateless_uniform(tf.shape(p), (seed, 0), dtype=p.dtype) < p
        p = tf.clip_by_value(p, 1e-7, 1 - 1e-7)
        return -tf.reduce_sum(tf.math.log(tf.where(drawn, p, 1 - p))), math.prod(p.shape[1:])

    def squared(outputs, seed):
        drawn = tf.random.stateless_normal(tf.shape(outputs), (seed, 0), dtype=outputs.dtype)
        total = tf.reduce_sum((tf.stop_gradient(outputs + drawn) - outputs) ** 2) / 2
        return total, math.prod(outputs.shape[1:]) / 2

    losses = keras.losses
    drawing = {
        losses.CategoricalCrossentropy: (losses.categorical_crossentropy, categorical),
        losses.SparseCategoricalCrossentropy: (losses.sparse_categorical_crossentropy, categorical),
        losses.BinaryCrossentropy: (losses.binary_crossentropy, binary),
        losses.MeanSquaredError: (losses.mean_squared_error, squared),
    }
    for kind, (function, draw) in drawing.items():
        if type(loss) is kind or loss is function:
            return lambda outputs, seed: draw(_summable(outputs), seed)
    allowed = ", ".join(kind.__name__ for kind in drawing)
    raise ValueError(f"Γ needs a loss whose labels can be drawn, {allowed}, not {loss!r}.")


def _summable(outputs):
    """In float32, if in 16 bits, in which sums over a batch overflow."""
    return tf.cast(outputs, tf.float32) if outputs.dtype.size < 4 else outputs
