"""How large is a loss at labels drawn from the network's own answers?"""

from ..backend import keras, tf


def surprise(loss):
    """A function (outputs, seed) → the loss, summed, at labels drawn from the outputs."""
    loss = keras.losses.get(loss)
    options = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    logits, axis = options.get("from_logits", False), options.get("axis", -1)

    def categorical(outputs, seed):
        outputs = keras.ops.moveaxis(outputs, axis, -1)
        log_p = tf.nn.log_softmax(outputs) if logits else tf.math.log(outputs + 1e-7)
        rows = tf.reshape(log_p, (-1, log_p.shape[-1]))
        # Gumbel's maximum: what stateless_categorical draws changes with the number of threads.
        u = tf.random.stateless_uniform(tf.shape(rows), (seed, 0), dtype=rows.dtype)
        drawn = tf.argmax(rows - tf.math.log(-tf.math.log(u)), axis=1)
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
            return lambda outputs, seed: draw(_summable(outputs), seed)
    allowed = ", ".join(kind.__name__ for kind in drawing)
    raise ValueError(f"Γ needs a loss whose labels can be drawn, {allowed}, not {loss!r}.")


def _summable(outputs):
    """In float32, if in 16 bits, in which sums over a batch overflow."""
    return tf.cast(outputs, tf.float32) if outputs.dtype.size < 4 else outputs
