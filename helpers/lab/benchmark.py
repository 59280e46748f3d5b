"""How long does a training step take, and how near is it to its limits?

`python -m helpers.lab.benchmark [--width 1024 5120] [--D 20 100] [--rounds 9]` prints a table for
each width and D. All steps are timed in turns within one run: their ratios mean more than their
times.
"""

import argparse
import sys

import numpy as np

from .. import compress, layers, svd
from . import cost
from .backend import keras, tf

BATCH = 256
SLOW_ROUNDS = 2  # of an exact SVD at every step, which takes as long as all others together
# Passes over each weight that an optimizer must make at the least, 4 bytes each: it reads the
# gradient, reads and writes the weight, and (AdamW) reads and writes two moments.
PASSES = {"AdamW": 7, "SGD": 3}
OPTIMIZERS = {"AdamW": keras.optimizers.AdamW, "SGD": keras.optimizers.SGD}


def dense_network(width, hidden=5):
    """784-width×hidden-10, without dropout: what is timed is the products and the optimizer."""
    layer = [keras.layers.Dense(width, "relu", name=f"hidden_{i + 1}") for i in range(hidden)]
    return keras.Sequential([keras.Input((784,)), *layer, keras.layers.Dense(10, name="output")])


def networks(width, D):
    """{(network, optimizer): (Keras model, optimizer)}: all that is compared at one width and D."""
    dense = dense_network(width)
    svds = {name: _start(dense.get_layer(name), D) for name in compress.hidden_layers(dense)}
    found = {}
    for optimizer in OPTIMIZERS:
        found["dense", optimizer] = keras.models.clone_model(dense)
        found["factorized", optimizer] = compress.factorize(dense, D, svds=svds)
        for derivative in layers.DERIVATIVES:
            found[derivative, optimizer] = compress.dynamic(
                dense, D, svds=svds, derivative=derivative
            )
    found["exact SVD a step", "AdamW"] = compress.dynamic(dense, D, svds=svds, tracking="svd")
    return found


def _start(layer, D):
    """A rank-D SVD near the layer's, without the minutes of an exact one at large widths."""
    Vt = tf.constant(
        np.linalg.qr(np.random.default_rng(0).normal(size=(layer.units, D)))[0].T, tf.float32
    )
    for _ in range(3):
        U, s, Vt = layers.subspace_step(tf.convert_to_tensor(layer.kernel), Vt)
    return svd.SVD(U.numpy(), s.numpy(), Vt.numpy())


def measure(width, D, rounds):
    """{(network, optimizer): (seconds (rounds,), multiply-adds, bytes)} of a training step."""
    rng = np.random.default_rng(0)
    x, y = (
        rng.uniform(size=(BATCH, 784)).astype("float32"),
        np.eye(10, dtype="float32")[rng.integers(10, size=BATCH)],
    )
    steps, found = {}, {}
    for key, network in networks(width, D).items():
        step = cost.training_step(network, x, y, OPTIMIZERS[key[1]](1e-4))
        trained = sum(weight.shape.num_elements() for weight in network.trainable_variables)
        found[key] = cost.traced_multiply_adds(step), 4 * PASSES[key[1]] * trained
        steps[key] = step
    slow = {key: steps.pop(key) for key in [*steps] if key[0] == "exact SVD a step"}
    times = cost.seconds(steps, rounds) | (cost.seconds(slow, SLOW_ROUNDS) if width <= 1024 else {})
    return {key: (seconds, *found[key]) for key, seconds in times.items()}


def print_table(width, D, measured):
    """A line a step: median and quartiles, relative to dense AdamW, and the share of each limit."""
    reference = np.median(measured["dense", "AdamW"][0])
    dense_adds = measured["dense", "AdamW"][1]
    print(f"\nwidth {width}, D = {D}, batch {BATCH}")
    print(
        f"{'network':18}{'optimizer':10}{'ms':>8} {'quartiles':>17}{'of dense':>10}{'multiply-adds':>15}{'of dense':>9}{'Gadds/s':>9}{'MB':>8}{'GB/s':>7}"
    )
    for (network, optimizer), (seconds, adds, size) in measured.items():
        q1, q2, q3 = np.quantile(seconds, [0.25, 0.5, 0.75])
        print(
            f"{network:18}{optimizer:10}{1e3 * q2:8.1f} {1e3 * q1:8.1f}–{1e3 * q3:<8.1f}"
            f"{q2 / reference:10.2f}{adds:15,}{adds / dense_adds:9.2f}{adds / q2 / 1e9:9.1f}{size / 1e6:8.1f}{size / q2 / 1e9:7.1f}"
        )


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m helpers.lab.benchmark", description=__doc__)
    parser.add_argument("--width", nargs="+", type=int, default=[1024, 5120])
    parser.add_argument("--D", nargs="+", type=int, default=[20, 100])
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args(arguments)
    for width in chosen.width:
        for D in chosen.D:
            print_table(width, D, measure(width, D, chosen.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
