"""How long does a training step take, and how near is it to its limits?

`python -m tests.measuring.step [--width 1024 5120] [--D 20 100] [--rounds 9]` prints a table for
each width and D: median and quartiles of the time, which is compared with the dense step by AdamW,
and with the limits that multiply-adds and memory set. All steps are timed in turns within one run:
their ratios mean more than their times.
"""

import argparse
from typing import NamedTuple

import numpy as np

from helpers import compress, layers, svd
from helpers.backend import keras, tf
from helpers.lab import cost

BATCH = 256
OPTIMIZERS = {"AdamW": keras.optimizers.AdamW, "SGD": keras.optimizers.SGD}
# Times that each weight must be read or written: its two uses in products and its gradient's
# writing, then by the optimizer, which also reads and writes AdamW's two moments.
PASSES = {"AdamW": 3 + 7, "SGD": 3 + 3}
EXACT_SVD = "exact SVD a step", "AdamW"


class Step(NamedTuple):
    """Seconds (rounds,) of a step, its multiply-adds, and the bytes it must move."""

    seconds: np.ndarray
    multiply_adds: int
    bytes: int


def dense_network(width, seed=0):
    """784-width×5-10 with kernels as notebook 1 finds them: shrunken noise, and 12 directions."""
    rng, model = np.random.default_rng(seed), keras.Sequential([keras.Input((784,))])
    for i in range(5):
        model.add(keras.layers.Dense(width, "relu", name=f"hidden_{i + 1}"))
        kernel = model.layers[-1].kernel
        noise = 0.2 * rng.normal(scale=np.sqrt(2 / kernel.shape[0]), size=kernel.shape)
        U, V = (np.linalg.qr(rng.normal(size=(n, 12)))[0] for n in kernel.shape)
        s = svd.noise_edge(kernel.shape, noise.std()) * np.geomspace(4, 1.2, 12)
        kernel.assign(noise + U * s @ V.T)
    model.add(keras.layers.Dense(10, name="output"))
    return model


def networks(width, D):
    """{(network, optimizer): Keras model} of all that is compared."""
    dense = dense_network(width)
    svds = {name: _leading(dense.get_layer(name), D) for name in compress.hidden_layers(dense)}
    found = {}
    for optimizer in OPTIMIZERS:
        found["dense", optimizer] = keras.models.clone_model(dense)
        found["factorized", optimizer] = compress.factorize(dense, D, svds=svds)
        for derivative in layers.DERIVATIVES:
            dynamic = compress.dynamic(dense, D, svds=svds, derivative=derivative)
            found[derivative, optimizer] = dynamic
    found[EXACT_SVD] = compress.dynamic(dense, D, svds=svds, tracking="svd")
    return found


def _leading(layer, D):
    """The layer's rank-D SVD, nearly: at large widths an exact one would take minutes."""
    W = tf.convert_to_tensor(layer.kernel)
    Vt = W[:D]
    for _ in range(4):
        U, s, Vt = layers.subspace_step(W, Vt)
    return svd.SVD(U.numpy(), s.numpy(), Vt.numpy())


def measure(width, D, rounds):
    """{(network, optimizer): Step}."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(BATCH, 784)).astype("float32")
    y = np.eye(10, dtype="float32")[rng.integers(10, size=BATCH)]
    functions, about = {}, {}
    for (name, optimizer), network in networks(width, D).items():
        function = cost.training_step(network, x, y, OPTIMIZERS[optimizer](1e-5))
        weights = sum(weight.shape.num_elements() for weight in network.trainable_variables)
        functions[name, optimizer] = function
        about[name, optimizer] = (
            cost.traced_multiply_adds(function, D),
            4 * PASSES[optimizer] * weights,
        )
    slow = functions.pop(EXACT_SVD)
    times = cost.seconds(functions, rounds)
    if width <= 1024:  # beyond, one such step takes minutes
        times |= cost.seconds({EXACT_SVD: slow}, rounds=2)
    return {key: Step(seconds, *about[key]) for key, seconds in times.items()}


def rates():
    """Multiply-adds and bytes a second that this machine reaches where nothing else is done."""
    A, big = tf.random.normal((2048, 2048)), tf.Variable(tf.zeros((2**25,)))
    tasks = {
        "product": tf.function(lambda: A @ A),
        "pass": tf.function(lambda: big.assign_add(big)),
    }
    times = cost.seconds(tasks, rounds=5)
    return 2048**3 / np.median(times["product"]), 3 * 4 * 2**25 / np.median(times["pass"])


def print_table(measured, adds_a_second, bytes_a_second):
    """A line a step; `limit` is the share of its time that the narrower of both limits takes."""
    dense = measured["dense", "AdamW"]
    reference = np.median(dense.seconds)
    columns = ("ms", "quartiles", "of dense", "multiply-adds", "of dense", "MB", "limit")
    print(f"{'':27}" + "".join(f"{name:>15}" for name in columns))
    for (network, optimizer), step in measured.items():
        q1, q2, q3 = np.quantile(step.seconds, [0.25, 0.5, 0.75])
        limit = max(step.multiply_adds / adds_a_second, step.bytes / bytes_a_second)
        cells = f"{1e3 * q2:.1f}", f"{1e3 * q1:.1f}–{1e3 * q3:.1f}", f"{q2 / reference:.2f}"
        cells += f"{step.multiply_adds:,}", f"{step.multiply_adds / dense.multiply_adds:.2f}"
        cells += f"{step.bytes / 1e6:.0f}", f"{limit / q2:.0%}"
        print(f"{network:20}{optimizer:7}" + "".join(f"{cell:>15}" for cell in cells))


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.step", description=__doc__)
    parser.add_argument("--width", nargs="+", type=int, default=[1024, 5120])
    parser.add_argument("--D", nargs="+", type=int, default=[20, 100])
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args(arguments)
    limits = rates()
    print(f"limits: {limits[0] / 1e9:.0f} G multiply-adds/s, {limits[1] / 1e9:.1f} GB/s")
    for width in chosen.width:
        for D in chosen.D:
            print(f"\nwidth {width}, D = {D}, batch {BATCH}")
            print_table(measure(width, D, chosen.rounds), *limits)


if __name__ == "__main__":
    main()
