"""Accuracies of the notebooks' networks, and of more controls, over D and seeds.

Run by hand, on whole MNIST ($SVD_DATASET): `python -m tests.measuring.networks --D 5 10 --seed 0 1`
prints a line for each network, with what is chosen by (validation) and what is reported (test). The
test accuracies go to .runs/, for `python -m helpers.lab.results`. Each D takes minutes.
"""

import argparse
import functools
import itertools
import time

import numpy as np
import scipy.linalg
from filelock import FileLock

from helpers import callbacks, compress, data, model
from helpers.backend import keras
from helpers.lab import results, store
from helpers.lab.controls import anew

ENTROPY = keras.losses.CategoricalCrossentropy(from_logits=True)
BY_LABEL = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Case:
    """What the networks of one seed are made of, at rank D; each part is made when asked for."""

    def __init__(self, digits, seed, epochs):
        self.digits, self.seed, self.epochs = digits, seed, epochs
        self.many = max(3, 2 * epochs // 3)
        self.D = None

    @functools.cached_property
    def network(self):
        return store.baseline(self.digits, self.epochs, self.seed).network

    @functools.cached_property
    def by_adamw(self):
        """The baseline but for the optimizer; a step shrinks the kernels as one of SGD does."""
        network, rate = model.build(self.seed), 1e-3
        decay = model.LEARNING_RATE * model.WEIGHT_DECAY / rate
        options = {"optimizer": "AdamW", "learning_rate": rate, "weight_decay": decay}
        model.train(network, self.digits, self.epochs, self.seed, **options)
        return network

    @functools.cached_property
    def seen(self):
        return compress.observe(self.network, self.digits.x_train, BY_LABEL)

    def shared(self):
        return self.seen.layer_by_layer(compress.shared_ranks(self.seen.svds, self.D))

    def cut(self, **options):
        return self.seen.cut(parameters=self.budget, **options).network

    def narrow(self, order):
        """Equal widths of the neurons that are first by `order(kernel)`, the next regressed."""
        kernels = {name: self.network.get_layer(name).kernel.numpy() for name in self.names}
        kept = {name: np.sort(order(W)[: self.width]) for name, W in kernels.items()}
        return self.seen.network(kept, {})

    @property
    def names(self):
        return compress.hidden_layers(self.network)

    @property
    def budget(self):
        """The parameters of rank D in every hidden layer."""
        return compress.kept_parameters(self.network, dict.fromkeys(self.names, self.D))

    @property
    def width(self):
        """Of every hidden layer of a dense network of the same size."""
        return model.width_for(self.budget)

    def fine_tune(self, network, more=0):
        """For `many` epochs, and more."""
        return model.fine_tune(network, self.digits, self.many + more, self.seed)[0]

    def as_long(self, network):
        """For as many epochs as the small dense network."""
        return self.fine_tune(network, self.epochs)

    def train(self, network, callback):
        about = network, self.digits, self.many, self.seed
        trained, _ = model.train_dynamic(*about, callbacks=[callback])
        if isinstance(callback, callbacks.Shrink):
            print("ranks", callback.ranks[-1], flush=True)
        return compress.factorize(trained, 1024)  # at the ranks that it computes with


def interpolative(case):
    """Interpolative decomposition as published (Chee et al., NeurIPS 2022), equal widths.

    Pivoted QR of activations chooses neurons; the next layer gets what they explain of the others,
    without the loss, and without regard to what was cut before.
    """
    x = case.digits.x_train[::5]
    small = model.build(case.seed, width=case.width)
    layers = [layer for layer in case.network.layers if layer.weights]
    fold = np.eye(784)
    for layer, new in zip(layers, (layer for layer in small.layers if layer.weights), strict=True):
        W, b = (w.numpy() for w in (layer.kernel, layer.bias))
        x = np.maximum(x @ W + b, 0)
        P = np.arange(len(b))
        if layer.name in case.names:
            R, P = scipy.linalg.qr(x, mode="r", pivoting=True)
            k, order = case.width, P
            T = np.empty((k, len(b)))
            T[:, order[:k]] = np.eye(k)
            T[:, order[k:]] = scipy.linalg.lstsq(R[:k, :k], R[:k, k:])[0]
            P = order[:k]
        new.set_weights([fold @ W[:, P], b[P]])
        fold = T
    return small


def by_norm(W):
    return np.argsort(-np.linalg.norm(W, axis=0))


def at_random(seed):
    rng = np.random.default_rng(seed)
    return lambda W: rng.permutation(W.shape[1])


def largest(case):
    """{layer name: the rank that a shrinking layer is built for}, below its full rank."""
    most = max(64, 2 * case.D)
    shapes = {name: case.network.get_layer(name).kernel.shape for name in case.names}
    return {name: min(most, min(shape) - 1) for name, shape in shapes.items()}


def shrink(case):
    return callbacks.Shrink(case.D, case.digits.x_train, ENTROPY)


METHODS = {
    "truncated": lambda c: compress.factorize(c.network, c.D),
    "whitened": lambda c: compress.factorize(
        c.network, c.D, compress.observe(c.network, c.digits.x_train).svds
    ),
    "two_sided": lambda c: compress.factorize(c.network, c.D, c.seen.svds),
    "layer_by_layer": lambda c: c.seen.layer_by_layer(c.D),
    "shared": Case.shared,
    "fine_tuned_shared": lambda c: c.fine_tune(c.shared()),
    "cut": Case.cut,  # neurons and ranks, with nothing trained
    "fine_tuned_cut": lambda c: c.fine_tune(c.cut()),
    "fine_tuned_cut_longer": lambda c: c.as_long(c.cut()),
    "cut_shape_anew": lambda c: c.as_long(anew(c.cut(), c.seed)),
    "cut_neurons_only": lambda c: c.cut(ranks=False),
    "neurons_by_norm": lambda c: c.narrow(by_norm),
    "random_neurons": lambda c: c.narrow(at_random(c.seed)),
    "interpolative": interpolative,
    "random_factors_shared": lambda c: c.fine_tune(anew(c.shared(), c.seed)),
    "small_dense": lambda c: c.as_long(model.build(c.seed, width=c.width)),
    "dynamic": lambda c: c.train(compress.dynamic(c.network, c.D), callbacks.Refresh(c.D)),
    "dynamic_ranks": lambda c: c.train(compress.dynamic(c.network, largest(c)), shrink(c)),
    "baseline_longer": lambda c: c.fine_tune(c.network),
    "baseline_adamw": lambda c: c.by_adamw,
    "truncated_adamw": lambda c: compress.factorize(c.by_adamw, c.D),
}


def measure(case, name):
    """{"test_accuracy", "parameters"} of a method, and a line."""
    start = time.perf_counter()
    network = METHODS[name](case)
    seconds, size = time.perf_counter() - start, network.count_params()
    chosen, reported = (
        model.accuracy(network, *part) for part in (case.digits.validation, case.digits.test)
    )
    print(
        f"{name:26} D={case.D:<3} seed={case.seed} validation {chosen:.4f}",
        f"test {reported:.4f}, {size:,} parameters, {seconds:.0f} s",
        flush=True,
    )
    return {"test_accuracy": reported, "parameters": size}


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.networks", description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(METHODS), help=", ".join(METHODS))
    parser.add_argument("--D", nargs="+", type=int, default=[5, 10, 20, 50])
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=15)
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.methods if name not in METHODS]:
        parser.error(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}.")
    digits, table = data.load(), results.RUNS / "measure.csv"
    table.parent.mkdir(exist_ok=True)
    for seed in chosen.seed:
        case = Case(digits, seed, chosen.epochs)
        for D, name in itertools.product(chosen.D, chosen.methods):
            case.D = D
            run = {"notebook": "measure", "D": D, "seed": seed, "dataset": digits.name}
            rows = results.rows(run | {"epochs": chosen.epochs, name: measure(case, name)})
            with FileLock(table.with_suffix(".lock")):
                results.write(table, results.merge(results.read(table), rows))


if __name__ == "__main__":
    main()
