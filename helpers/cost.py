"""What a network costs: parameters, multiply-adds, bytes, time.

A dense kernel W (n_in, n_out) holds n_in · n_out numbers. One multiply-add per number and image
is what its product with an input costs, so both are counted by the same functions.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from .backend import keras, tf
from .files import stderr_muted


def svd_parameters(shape, D):
    """Numbers in U (n_in, D), s (D,) and Vt (D, n_out) as textbooks count: D · (n_in + n_out + 1).

    >>> svd_parameters((784, 1024), D=20)
    36180
    """
    n_in, n_out = shape
    return D * (n_in + n_out + 1)


def factorized_parameters(shape, D):
    """Numbers in the two factors, s multiplied into one of them: D · (n_in + n_out).

    >>> factorized_parameters((784, 1024), D=20)
    36160
    """
    n_in, n_out = shape
    return D * (n_in + n_out)


def break_even_rank(shape):
    """The largest D at which two factors save numbers: D · (n_in + n_out) < n_in · n_out.

    >>> break_even_rank((784, 1024))
    444
    """
    n_in, n_out = shape
    return (n_in * n_out - 1) // (n_in + n_out)


def kept_parameters(model, ranks):
    """Parameters of `model` when each named layer is stored at its rank, in its smaller form.

    A layer beyond its break-even rank stays dense; biases and all other layers count whole.

    Args:
        model: a built Keras model.
        ranks: {layer name: D}.

    Returns:
        int, numbers to store.
    """
    total = model.count_params()
    for name, D in ranks.items():
        shape = model.get_layer(name).kernel.shape
        dense = shape[0] * shape[1]
        total -= dense - min(dense, factorized_parameters(shape, D))
    return total


def multiply_adds(model):
    """Multiply-adds of the model's Dense layers for one input vector each, Σ n_in · n_out."""
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    return sum(layer.kernel.shape[0] * layer.kernel.shape[1] for layer in dense)


def to_litert(model, int8=False):
    """The model as a LiteRT (TensorFlow Lite) file.

    Args:
        model: a built Keras model.
        int8: store the weights as 8-bit integers with one scale for each matrix, and multiply
            in integers (dynamic-range quantization); else all is float32.

    Returns:
        bytes, the content of a .tflite file.

    Source: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization
    """
    options = {}
    if int8:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
        # A scale and a zero point for each output, the default, are 12 bytes: in a thin factor
        # (20, 1024) over half as much as the weights themselves.
        options["_experimental_disable_per_channel_quantization_for_dense_layers"] = True
    with tempfile.TemporaryDirectory() as folder, stderr_muted():
        path = Path(folder) / "model.tflite"
        model.export(path, format="litert", verbose=False, **options)
        return path.read_bytes()


def litert_function(content, batch_size=1):
    """A function that runs a LiteRT model on one thread.

    Args:
        content: bytes of a .tflite file with one input and one output.
        batch_size: rows of every input.

    Returns:
        function, x (batch_size, …) float32 → the model's outputs (batch_size, …).
    """
    from ai_edge_litert.interpreter import Interpreter

    with stderr_muted():
        interpreter = Interpreter(model_content=content, num_threads=1)
        source = interpreter.get_input_details()[0]
        interpreter.resize_tensor_input(source["index"], [batch_size, *source["shape"][1:]])
        interpreter.allocate_tensors()
    target = interpreter.get_output_details()[0]

    def run(x):
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return run


def training_step(model, x, y, optimizer=None):
    """A function without arguments that takes one training step of a classifier.

    Forward, backward and the update of all weights, compiled by tf.function; the model changes.

    Args:
        model: a built Keras model that gives logits (n, classes).
        x: inputs (n, …).
        y: probabilities (n, classes).
        optimizer: keras.optimizers.Optimizer; AdamW at the rate 1e-3 by default.
    """
    x, y = tf.constant(x), tf.constant(y)
    optimizer = keras.optimizers.AdamW(1e-3) if optimizer is None else optimizer
    optimizer.build(model.trainable_variables)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            error = loss(y, model(x, training=True))
        optimizer.apply(tape.gradient(error, model.trainable_variables))

    return step.get_concrete_function()  # several a process, and TensorFlow warns of retracing


def seconds(functions, rounds, calls=1):
    """Seconds a call of each function, interleaved.

    Each round times every function once, over `calls` calls in a row after one that is not
    timed. What else the machine does then strikes all of them alike, and a ratio of medians
    means more than each median.

    Args:
        functions: {name: function without arguments}.
        rounds: rounds timed, after one that is not.
        calls: calls in a row.

    Returns:
        {name: array (rounds,)} of seconds per call.
    """
    times = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            function()
            start = time.perf_counter()
            for _ in range(calls):
                function()
            times[name].append((time.perf_counter() - start) / calls)
    return {name: np.array(measured[1:]) for name, measured in times.items()}
