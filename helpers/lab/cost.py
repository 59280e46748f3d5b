"""What a network costs: multiply-adds, bytes, latency, the time of a training step."""

import math
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from ..backend import keras, tf
from ..compress import watch
from ..quiet import stderr_muted

multiply_adds = watch.total  # of a model, for one input


def traced_multiply_adds(function, rank=None):
    """Multiply-adds of the matrix products in a traced function, from the shapes in its graph.

    A product that stands twice, of the same tensors, counts once: TensorFlow computes it once.
    What stands in a loop or a condition is not counted.

    Args:
        function: from `tf.function(…).get_concrete_function()`, of known shapes but for the ranks
            of dynamic layers, which may change from step to step.
        rank: the rank to count these for.
    """

    def sizes(tensor):
        joined = len(tensor.op.inputs) - 1 if tensor.op.type == "ConcatV2" else 1
        return [joined * rank if size is None else size for size in tensor.shape]

    products = {}
    for op in function.graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            (left, right), out = op.inputs, sizes(op.outputs[0])
            inner = math.prod(sizes(left)[-2:]) // out[-2]
            products[left.name, right.name] = math.prod(out) * inner
    return sum(products.values())


def to_litert(model, inputs=None):
    """The bytes of the model as a LiteRT (TensorFlow Lite) file, in float32 or in 8-bit integers.

    Args:
        model: a built Keras model.
        inputs: some hundred typical inputs (n, …), for int8: weights are stored as integers with
            one scale for each matrix, what passes between layers with the scale that these inputs
            ask for, and all products are in integers. Without them, all is float32.

    Source: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization
    """
    options = {}
    if inputs is not None:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
        # Without inputs to set scales by, matrices of less than 1024 numbers would stay float32.
        options["representative_dataset"] = lambda: ([x[None]] for x in inputs)
        # A scale and a zero point for each output, the default, are 12 bytes: in a thin factor
        # (20, 1024) over half as much as the weights themselves.
        options["_experimental_disable_per_channel_quantization_for_dense_layers"] = True
    with tempfile.TemporaryDirectory() as folder, stderr_muted():
        path = Path(folder) / "model.tflite"
        model.export(path, format="litert", verbose=False, **options)
        return path.read_bytes()


def litert_function(content, batch_size=1):
    """A function that runs a .tflite file of one input and output on one thread.

    It takes x (batch_size, …) float32, and returns the model's outputs (batch_size, …).
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


def litert_seconds(files, x, rounds, calls):
    """`seconds` a call of LiteRT files on the inputs x: {name: bytes} → {name: array (rounds,)}."""
    runs = {name: litert_function(content, len(x)) for name, content in files.items()}
    return seconds({n: lambda run=run: run(x) for n, run in runs.items()}, rounds, calls)


def deployed(model):
    """What the model is on a phone: {"LiteRT bytes", and, of one input and output, "latency, ms"}.

    Latency is the median of 50 calls on one thread, one input of zeros each; there is none for
    what LiteRT cannot run by itself, as recurrent layers and strings.
    """
    content = to_litert(model)
    found = {"LiteRT bytes": len(content)}
    if len(model.inputs) == len(model.outputs) == 1:
        (source,) = model.inputs
        try:
            run = litert_function(content)
        except RuntimeError:  # it has operations that only TensorFlow has
            return found
        x = np.zeros([1, *(size or 1 for size in source.shape[1:])], source.dtype)
        found["latency, ms"] = 1e3 * float(np.median(seconds({"": lambda: run(x)}, 50)[""]))
    return found


def machine():
    """The processor, its cores and their own caches, to stand beside what was timed."""
    names = [platform.processor() or platform.machine()]
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cache = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
    own = f", {cache.read_text().strip()}B of cache each" if cache.exists() else ""
    return f"{names[-1]}, {os.cpu_count()} cores{own}"


def training_step(model, x, y, optimizer=None):
    """A function without arguments that takes one training step of a classifier.

    Forward, backward and the update of all weights, compiled by tf.function; the model changes.

    Args:
        model: a built Keras model that gives logits (n, classes).
        x: inputs (n, …).
        y: probabilities (n, classes).
        optimizer: of Keras; AdamW at the rate 1e-3 by default.
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

    Each round times every function once, over `calls` calls in a row after one that warms the
    caches. Rounds take turns, so what else the machine does strikes all: trust ratios of medians.

    {name: function without arguments} gives {name: array (rounds,)} of seconds per call.
    """
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            function()
            start = time.perf_counter()
            for _ in range(calls):
                function()
            times[name].append((time.perf_counter() - start) / calls)
    return {name: np.array(measured) for name, measured in times.items()}
