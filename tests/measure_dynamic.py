"""How far does dynamic SVD go, by which ranks? Run by hand: `python -m tests.measure_dynamic`.

Of each seed's baseline, or from random weights ("from scratch"), one line a method and D:
validation and test accuracy, the ranks, the seconds of training. On whole MNIST a line takes
minutes. What is chosen is chosen on validation data.
"""

import argparse
import time

import numpy as np

from helpers import callbacks, compress, data, layers, model, ranks, svd
from helpers.lab import store
from helpers.lab.backend import keras

LARGEST = 128  # rank that shrinking layers are built for
LOSS = keras.losses.CategoricalCrossentropy(from_logits=True)


class Tolerance(callbacks.Shrink):
    """DLRT's way: each layer drops the same share of its energy, as large as the budget asks."""

    def worth(self):
        found = {}
        for name, layer in self.layers.items():
            s = layer.refresh()
            left = np.cumsum((s**2)[::-1])[::-1] / np.sum(s**2)
            U, _, Vt = layer.tracked()
            # All layers pay alike for the same share: the price of a value is that of its layer.
            found[name] = svd.SVD(U, np.sqrt(left[: layer.D]), Vt)
        return found


def equal(network, digits, D):
    return compress.dynamic(network, D), callbacks.Refresh(D)


def no_training(network, digits, D):
    svds = compress.decompose(network, inputs=digits.x_train, loss=LOSS)
    return compress.dynamic(network, ranks.shared_ranks(svds, D)), callbacks.Refresh(D)


def tapered(network, digits, D):
    flat = {
        name: svd.SVD(f.U, np.sqrt(0.7**layer / np.arange(1, len(f.s) + 1)), f.Vt)
        for layer, (name, f) in enumerate(compress.decompose(network).items())
    }
    return compress.dynamic(network, ranks.shared_ranks(flat, D, discount=1)), callbacks.Refresh(D)


def shrinking(network, digits, D):
    return compress.dynamic(network, LARGEST), callbacks.Shrink(D, digits.x_train, LOSS)


def tolerance(network, digits, D):
    return compress.dynamic(network, LARGEST), Tolerance(D, digits.x_train, LOSS)


METHODS = {
    "equal": equal,
    "no-training": no_training,
    "tapered": tapered,
    "shrinking": shrinking,
    "tolerance": tolerance,
    "scratch": shrinking,
}


def measure(method, D, seed, digits, epochs):
    scratch = method == "scratch"
    network = model.build(seed) if scratch else store.baseline(digits, epochs, seed).network
    network, callback = METHODS[method](network, digits, D)
    passes, start = epochs if scratch else max(3, 2 * epochs // 3), time.perf_counter()
    network, _ = model.train_dynamic(network, digits, passes, seed, callbacks=[callback])
    seconds = time.perf_counter() - start
    dynamic = [layer for layer in network.layers if isinstance(layer, layers.DynamicDense)]
    reached = [model.accuracy(network, *part) for part in (digits.validation, digits.test)]
    size = compress.factorize(network, LARGEST).count_params()
    print(
        f"{method:12} D={D:<3} seed={seed} validation {reached[0]:.4f} test {reached[1]:.4f}",
        f"{size:,} parameters, ranks {[int(layer.rank) for layer in dynamic]}, {seconds:.0f} s",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.measure_dynamic", description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(METHODS), help=", ".join(METHODS))
    parser.add_argument("--D", nargs="+", type=int, default=[5, 10, 20, 50])
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--dataset", default="auto")
    parser.add_argument("--epochs", type=int, default=15)
    chosen = parser.parse_args()
    digits = data.load(chosen.dataset)
    for seed in chosen.seed:
        for D in chosen.D:
            for method in chosen.methods:
                measure(method, D, seed, digits, chosen.epochs)


if __name__ == "__main__":
    main()
