"""What truncation without training keeps, over seeds: `python -m tests.measure_sight`.

Run by hand, on whole MNIST ($SVD_DATASET): a table of test accuracies in percent, mean ± standard
deviation over seeds, of the truncations of notebook 1. It takes minutes, and more where baselines
have to be trained first.
"""

import sys

import numpy as np

from helpers import compress, data, model
from helpers.lab import store
from helpers.lab.backend import keras
from helpers.ranks import shared_ranks

RANKS, SEEDS, EPOCHS = (5, 10, 20, 50), (0, 1, 2), 15
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def measure(network, digits):
    """{(method, D): test accuracy} of one baseline."""
    sighted = {"inputs": digits.x_train, "loss": LOSS}
    svds = {
        "plain": compress.decompose(network),
        "whitened": compress.decompose(network, inputs=digits.x_train),
    }
    svds["two-sided"], cut = compress.cutter(network, **sighted)
    found = {}
    for D in RANKS:
        by_loss = dict(zip(svds["two-sided"], shared_ranks(svds["two-sided"], D), strict=True))
        cuts = {name: compress.truncate(network, D, svds=s) for name, s in svds.items()}
        cuts["layer by layer"] = cut(dict.fromkeys(by_loss, D))
        cuts["two-sided, shared ranks"] = compress.truncate(
            network, by_loss, svds=svds["two-sided"]
        )
        cuts["layer by layer, shared ranks"] = cut(by_loss)
        for name, small in cuts.items():
            found[name, D] = model.accuracy(small, *digits.test)
    return found


def main():
    digits = data.load()
    runs = [measure(store.baseline(digits, EPOCHS, seed).network, digits) for seed in SEEDS]
    methods = list(dict.fromkeys(method for method, _ in runs[0]))
    print("| D | " + " | ".join(methods) + " |\n" + "| --- " * (1 + len(methods)) + "|")
    for D in RANKS:
        seeds = [[100 * run[method, D] for run in runs] for method in methods]
        cells = [f"{np.mean(found):.2f} ± {np.std(found, ddof=1):.2f}" for found in seeds]
        print(f"| {D} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
