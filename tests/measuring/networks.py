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

    def shared_cut(self):
        return self.seen.layer_by_layer(compress.shared_ranks(self.seen.svds, self.D))

    @property
    def budget(self):
        """The parameters of rank D in every hidden layer."""
        names = compress.hidden_layers(self.network)
        return compress.kept_parameters(self.network, dict.fromkeys(names, self.D))

    @property
    def widths(self):
        """Equal widths, of the same size, {layer name: neurons}."""
        names = compress.hidden_layers(self.network)
        return dict.fromkeys(names, model.width_for(self.budget))

    def fine_tune(self, network, passes):
        return model.fine_tune(network, self.digits, passes, self.seed)[0]

    def train(self, network, callback, passes=None):
        passes, options = passes or self.many, {"callbacks": [callback]}
        trained, _ = model.train_dynamic(network, self.digits, passes, self.seed, **options)
        if isinstance(callback, callbacks.Shrink):
            print("ranks", callback.ranks[-1], flush=True)
        return compress.factorize(trained, 1024)  # at the ranks that it computes with


def truncated(case):
    return compress.factorize(case.network, case.D)


def baseline_longer(case):
    """Trained on for as many epochs as factors are fine-tuned."""
    return case.fine_tune(case.network, case.many)


def baseline_adamw(case):
    return case.by_adamw


def truncated_adamw(case):
    return compress.factorize(case.by_adamw, case.D)


def whitened(case):
    svds = compress.observe(case.network, case.digits.x_train).svds
    return compress.factorize(case.network, case.D, svds)


def two_sided(case):
    return compress.factorize(case.network, case.D, case.seen.svds)


def layer_by_layer(case):
    return case.seen.layer_by_layer(case.D)


def shared(case):
    return case.shared_cut()


def fine_tuned_shared(case):
    return case.fine_tune(case.shared_cut(), case.many)


def random_factors_shared(case):
    return case.fine_tune(anew(case.shared_cut(), case.seed), case.many)


def cut(case):
    """Neurons and ranks, with nothing trained."""
    return case.seen.cut(parameters=case.budget).network


def fine_tuned_cut(case):
    return case.fine_tune(cut(case), case.many)


def fine_tuned_cut_longer(case):
    """For as many epochs as the small dense network."""
    return case.fine_tune(cut(case), case.epochs + case.many)


def cut_shape_anew(case):
    """The shape of the cut, from random weights, for as many epochs."""
    return case.fine_tune(anew(cut(case), case.seed), case.epochs + case.many)


def cut_neurons_only(case):
    return case.seen.cut(parameters=case.budget, ranks=False).network


def neurons_by_norm(case):
    """Neurons of the largest weights, equal widths, the next layer regressed."""
    kernels = {name: case.network.get_layer(name).kernel.numpy() for name in case.widths}
    orders = {name: np.argsort(-np.linalg.norm(W, axis=0)) for name, W in kernels.items()}
    return case.seen.network({n: np.sort(orders[n][:k]) for n, k in case.widths.items()}, {})


def random_neurons(case):
    """Random neurons, equal widths, the next layer regressed."""
    rng = np.random.default_rng(case.seed)
    every = {name: case.network.get_layer(name).units for name in case.widths}
    kept = {n: np.sort(rng.permutation(every[n])[:k]) for n, k in case.widths.items()}
    return case.seen.network(kept, {})


def interpolative(case):
    """Interpolative decomposition as published (Chee et al., NeurIPS 2022), equal widths.

    Pivoted QR of activations chooses neurons; the next layer gets what they explain of the others,
    without the loss, and without regard to what was cut before.
    """
    x = case.digits.x_train[::5]
    small = model.build(case.seed, width=next(iter(case.widths.values())))
    layers = [layer for layer in case.network.layers if layer.weights]
    fold = np.eye(784)
    for layer, new in zip(layers, (layer for layer in small.layers if layer.weights), strict=True):
        W, b = (w.numpy() for w in (layer.kernel, layer.bias))
        x = np.maximum(x @ W + b, 0)
        P = np.arange(len(b))
        if layer.name in case.widths:
            R, P = scipy.linalg.qr(x, mode="r", pivoting=True)
            k, order = case.widths[layer.name], P
            T = np.empty((k, len(b)))
            T[:, order[:k]] = np.eye(k)
            T[:, order[k:]] = scipy.linalg.lstsq(R[:k, :k], R[:k, k:])[0]
            P = order[:k]
        new.set_weights([fold @ W[:, P], b[P]])
        fold = T
    return small


def small_dense(case):
    width = model.width_for(truncated(case).count_params())
    return case.fine_tune(model.build(case.seed, width=width), case.epochs + case.many)


def dynamic(case):
    return case.train(compress.dynamic(case.network, case.D), callbacks.Refresh(case.D))


def dynamic_ranks(case):
    return case.train(compress.dynamic(case.network, largest(case)), shrink(case))


def from_scratch(case):
    start = compress.dynamic(model.build(case.seed), largest(case))
    return case.train(start, shrink(case), case.epochs)


def largest(case):
    """{layer name: the rank that a shrinking layer is built for}, below its full rank."""
    network, most = case.network, max(64, 2 * case.D)
    names = compress.hidden_layers(network)
    return {n: min(most, min(network.get_layer(n).kernel.shape) - 1) for n in names}


def shrink(case):
    return callbacks.Shrink(case.D, case.digits.x_train, ENTROPY)


METHODS = [truncated, whitened, two_sided, layer_by_layer, shared, fine_tuned_shared]
METHODS += [cut, fine_tuned_cut, fine_tuned_cut_longer, cut_shape_anew, cut_neurons_only]
METHODS += [neurons_by_norm, random_neurons, interpolative]
METHODS += [random_factors_shared, small_dense, dynamic, dynamic_ranks, from_scratch]
METHODS += [baseline_longer, baseline_adamw, truncated_adamw]
METHODS = {method.__name__: method for method in METHODS}


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
    parser.add_argument("--dataset", default="auto")
    parser.add_argument("--epochs", type=int, default=15)
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.methods if name not in METHODS]:
        parser.error(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}.")
    digits, table = data.load(chosen.dataset), results.RUNS / "measure.csv"
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
