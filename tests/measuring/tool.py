"""How small can a network be? Two networks on whole MNIST: `python -m tests.measuring.tool`.

Run by hand, on whole MNIST ($SVD_DATASET). The network of the notebooks and a LeNet-5 are cut to
several sizes: untrained, fine-tuned at once, fine-tuned in two stages, and the same shape trained
from random weights for as many epochs.
"""

import argparse

import numpy as np

from helpers import compress, data, model
from helpers.backend import keras
from helpers.lab import store
from helpers.lab.controls import anew

SIZES = {"course": (48_550, 30_300, 13_100), "lenet": (30_300, 13_100, 4_900)}
SAMPLES = {"course": 10_000, "lenet": 2000}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
L = keras.layers


def lenet(digits, epochs, seed):
    """A trained LeNet-5 of 431,080 parameters, on pixels in a row."""
    keras.utils.set_random_seed(seed)
    he = {"activation": "relu", "kernel_initializer": "he_normal"}
    layers = [keras.Input((784,)), L.Reshape((28, 28, 1))]
    for filters in (20, 50):
        layers += [L.Conv2D(filters, 5, **he, name=f"conv_{filters}"), L.MaxPooling2D()]
    network = keras.Sequential([*layers, L.Flatten(), L.Dense(500, **he, name="fc"), L.Dense(10)])
    model.train(network, digits, epochs, seed)
    return network


def by_size(name, digits, epochs, passes, seed):
    """{(size, way): (parameters, validation and test accuracy in percent)} of a network."""
    course = name == "course"
    whole = store.baseline(digits, epochs, seed).network if course else lenet(digits, epochs, seed)
    found = {}

    def note(size, way, network):
        scores = (model.accuracy(network, *part) for part in (digits.validation, digits.test))
        found[size, way] = network.count_params(), *(100 * score for score in scores)
        print(name, seed, way, *found[size, way], flush=True)
        return network

    def tuned(network, passes):
        return model.fine_tune(network, digits, passes, seed)[0]

    def observed(network):
        return compress.observe(network, digits.x_train, LOSS, samples=SAMPLES[name])

    note(whole.count_params(), "whole", whole)
    seen = observed(whole)
    for size in SIZES[name]:
        cut = note(size, "untrained", seen.cut(parameters=size).network)
        note(size, "fine-tuned", tuned(cut, passes))
        larger = seen.cut(parameters=2 * size).network
        again = observed(tuned(larger, passes // 3)).cut(parameters=size).network
        note(size, "two stages", tuned(again, passes - passes // 3))
        note(size, "random weights", tuned(anew(cut, seed), passes))
    return found


def print_sizes(name, digits, epochs, passes, seeds):
    header = ["network", "at most", "", "parameters", "validation", "test", "seeds"]
    lines = [header, ["---"] * len(header)]
    runs = [by_size(name, digits, epochs, passes, seed) for seed in seeds]
    for size, way in runs[0]:
        counts, *scores = zip(*(run[size, way] for run in runs), strict=True)
        cells = [name, f"{size:,}", way, f"{max(counts):,}", *map(spread, scores), str(len(runs))]
        lines.append(cells)
    print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def spread(scores):
    """Mean, and standard deviation if there are several."""
    deviation = f" ± {np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.2f}{deviation}"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.tool", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--only", choices=SIZES)
    arguments = parser.parse_args()
    digits, epochs = data.load(), arguments.epochs
    passes = {"course": epochs + 2 * epochs // 3, "lenet": epochs}  # the latter: as in training
    for name in SIZES:
        if arguments.only in (None, name):
            print_sizes(name, digits, epochs, passes[name], arguments.seeds)


if __name__ == "__main__":
    main()
