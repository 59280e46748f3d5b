"""What a goal reaches on whole MNIST, over seeds: `python -m tests.measuring.tool`.

Run by hand, on whole MNIST ($SVD_DATASET). First a LeNet-5, compressed to two sizes and
fine-tuned for no more epochs than its own training: test accuracies in percent, mean ± standard
deviation over seeds, with training images moved by up to a pixel and without. Then a goal for the
network of the notebooks: validation accuracy at most 0.3 points lower, nothing trained.
"""

import argparse
import sys
import time
from unittest import mock

import numpy as np

from helpers import compress, data, model
from helpers.backend import keras
from helpers.compress import graph, kinds
from helpers.lab import store

SIZES = (30_300, 13_100)  # parameters, those of DLRT's LeNet-5
# Sizes in units of the goal, and shares of the epochs: cut at once, a network trains less well.
STAGES = {2: 0.2, 1: 0.8}
SAMPLES = 2000
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LOWER = 0.003
L = keras.layers


def lenet(seed):
    """A LeNet-5 of 431,080 parameters, on pixels in a row."""
    keras.utils.set_random_seed(seed)
    he = {"activation": "relu", "kernel_initializer": "he_normal"}
    layers = [keras.Input((784,)), L.Reshape((28, 28, 1))]
    for filters in (20, 50):
        layers += [L.Conv2D(filters, 5, **he, name=f"conv_{filters}"), L.MaxPooling2D()]
    return keras.Sequential([*layers, L.Flatten(), L.Dense(500, **he, name="fc"), L.Dense(10)])


def merged(whole, small):
    """The whole network with the matrices that the factors of the small one multiply to."""
    made, chains = graph.leaves(small), {}
    for path, layer in graph.leaves(whole).items():
        if f"{path}_U" in made:
            U, Vt = (made[f"{path}_{factor}"].weights for factor in ("U", "Vt"))
            D = U[0].shape[-1]
            # Of a horizontal convolution, (1, width, D, filters).
            second = np.moveaxis(Vt[0], -2, 0).reshape(D, -1)
            W = np.reshape(U[0], (-1, D)) @ second
            chains[path] = kinds.of(layer).one(W, Vt[1:])
        elif layer.weights:
            again = type(layer).from_config(layer.get_config())
            chains[path] = [(again, made[path].get_weights())]
    return graph.copy(whole, chains)


def compressed(network, digits, size, epochs, seed):
    """The network at no more than so many parameters, fine-tuned; in stages."""
    every = list(graph.compressible(network))
    targets = keras.ops.softmax(model.logits(network, digits.x_train))
    start = network
    for unit, share in STAGES.items():
        seen = compress.observe(start, digits.x_train, LOSS, every, SAMPLES)
        found = seen.cut(parameters=unit * size)
        small, passes = found.network, int(share * epochs)
        if passes:
            small, _ = model.fine_tune(small, digits, passes, seed, targets=targets)
        start = merged(network, small)
    print(found.ranks, flush=True)
    return small


def of_lenet(digits, epochs, seed):
    """{size: (parameters, validation and test accuracy in percent)}, and of the whole network."""
    network = lenet(seed)
    model.train(network, digits, epochs, seed)
    networks = {network.count_params(): network}
    networks |= {size: compressed(network, digits, size, epochs, seed) for size in SIZES}
    parts = digits.validation, digits.test
    found = {
        size: (net.count_params(), *(100 * model.accuracy(net, *part) for part in parts))
        for size, net in networks.items()
    }
    print(f"seed {seed}: {found}", flush=True)
    return found


def print_lenets(digits, epochs, seeds, still):
    header = ["moved", "at most", "parameters", "validation accuracy", "test accuracy", "seeds"]
    lines = [header, ["---"] * len(header)]
    for moved, some in ((True, seeds), (False, still)):
        shift = model.shift if moved else lambda images, seed: images
        with mock.patch.object(model, "shift", shift):
            runs = [of_lenet(digits, epochs, seed) for seed in some]
        for size in runs[0] if runs else ():
            counts, *scores = zip(*(run[size] for run in runs), strict=True)
            cells = ["by a pixel" if moved else "no", f"{size:,}", f"{max(counts):,}"]
            lines.append([*cells, *map(spread, scores), str(len(runs))])
    print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def spread(scores):
    """Mean, and standard deviation if there are several."""
    deviation = f" ± {np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.2f}{deviation}"


def print_goals(digits, epochs, seeds):
    for seed in seeds:
        network = store.baseline(digits, epochs, seed).network

        def validated(net):
            return model.accuracy(net, *digits.validation)

        start = time.perf_counter()
        goal = validated(network) - LOWER
        seen = compress.observe(network, digits.x_train, LOSS)
        found = seen.cut(score=goal, evaluate=validated)
        seconds = time.perf_counter() - start
        share = found.network.count_params() / network.count_params()
        scores = [model.accuracy(net, *digits.test) for net in (network, found.network)]
        print(
            f"seed {seed}: {found}, {share:.2%} of the parameters, {len(found.curve)} evaluations, "
            f"{seconds:.0f} s; test {scores[0]:.2%} → {scores[1]:.2%}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--still", type=int, nargs="*", default=[0], help="seeds, images as they are"
    )
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--only", choices=["goal", "lenet"])
    arguments = parser.parse_args()
    digits = data.load()
    if arguments.only != "lenet":
        print_goals(digits, arguments.epochs, arguments.seeds)
    if arguments.only != "goal":
        print_lenets(digits, arguments.epochs, arguments.seeds, arguments.still)
    return 0


if __name__ == "__main__":
    sys.exit(main())
