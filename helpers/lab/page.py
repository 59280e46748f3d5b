"""The page with a slider: what is left of the network at every D, in a browser, without a kernel.

`python -m helpers.lab.page` cuts the baseline to the parameters of some values of D, by the first
method of the course and by the last, and writes figures/truncation.html ($SVD_FIGURES names another
folder): one file, which needs no network. It takes some minutes.
"""

import argparse
import base64
import io
import json
import string
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image  # comes with matplotlib

from .. import compress, data, model, svd
from ..backend import keras
from ..progress import Line
from . import figures, parameters, store
from .files import write_text

NAME = "truncation.html"
RANKS = (1, 2, 3, 5, 7, 10, 14, 20, 30, 50, 100)
LAYER = "hidden_1"  # whose matrix is shown: its columns are images
UNITS = 3  # down and across, whose columns are shown
LEVELS = 64  # of colour: with more, noise takes up far more room
DIGITS = 12  # shown, at most, of those misread
TUNED = 10  # epochs of fine-tuning, as in notebook 2
METHODS = PLAIN, CUT, FINE_TUNED = "plain", "neurons and ranks", "fine-tuned, neurons and ranks"
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TEMPLATE = Path(__file__).with_name("page.html")


def measure(network, untrained, digits, ranks=RANKS, tuned=TUNED, seed=0):
    """What the page shows, ready to be written as JSON.

    Args:
        network, untrained: the baseline, which does not change, and what it was trained from.
        digits: helpers.data.Data.
        ranks: values of D; each is a budget, of what the factors of rank D take in every layer.
        tuned, seed: epochs of fine-tuning, and their seed.

    Returns:
        dict: the "uncut" network, its first weight matrix W, and for each of the "methods" a list
        of its cuts, one for each "D". Pictures are data URIs, and show the neurons that the cut
        chooses first; a neuron that is gone is a column of zeros. "misread" counts the test digits
        that the uncut network reads right and the cut one does not; "digits" are the first of
        them, as [index, label, what it is read as].
    """
    svds, seen = compress.decompose(network), compress.observe(network, digits.x_train, LOSS)
    W, right = _kernel(network), _read(network, digits) == digits.y_test
    units = seen.neurons[LAYER].order[: UNITS**2]
    top = float(np.quantile(np.abs(W[:, units]), 0.995))
    every = np.arange(W.shape[1])

    def look(cut, kept):
        left, read = np.zeros_like(W), _read(cut, digits)
        left[:, kept] = _kernel(cut)
        worse = np.flatnonzero(right & (read != digits.y_test))
        return _size(cut) | {
            "accuracy": float(np.mean(read == digits.y_test)),
            "left": _colours(_images(left[:, units]), top),
            "lost": _colours(_images((W - left)[:, units]), top),
            "misread": len(worse),
            "digits": [[int(i), int(digits.y_test[i]), int(read[i])] for i in worse[:DIGITS]],
        }

    methods, line = {method: [] for method in METHODS}, Line()
    for D in sorted({*ranks}):
        line.say(f"cutting to the size of D = {D}")
        plain = compress.factorize(network, D, svds)
        found = seen.cut(parameters=plain.count_params())
        kept = seen.kept(found.widths)[LAYER]
        fine_tuned, _ = model.fine_tune(found.network, digits, tuned, seed)
        cuts = (plain, every), (found.network, kept), (fine_tuned, kept)
        for method, cut in zip(METHODS, cuts, strict=True):
            methods[method].append(look(*cut))
    shown = {i for cuts in methods.values() for cut in cuts for i, _, _ in cut["digits"]}
    return {
        "dataset": digits.name,
        "tuned": tuned,
        "D": sorted({*ranks}),
        "uncut": _size(network) | {"accuracy": float(np.mean(right))},
        "methods": methods,
        "images": {str(i): _digit(digits.x_test[i]) for i in sorted(shown)},
        "units": len(units),
        "W": _colours(_images(W[:, units]), top),
        "top": top,
        "scale": _colours(np.linspace(-top, top, 2 * LEVELS)[None], top),
        "s": [float(f"{value:.4g}") for value in svds[LAYER].s],  # more than a screen shows
        "edge": _edge(W, _kernel(untrained)),
    }


def _edge(W, W_0):
    """The largest singular value of what is left in W of W_0, the noise it was trained from."""
    left = np.vdot(W_0, W) / np.vdot(W_0, W_0)
    return float(left * svd.noise_edge(W.shape, model.initial_std(len(W))))


def _kernels(network):
    return {layer.name: layer.kernel.numpy() for layer in network.layers if layer.weights}


def _kernel(network):
    """The matrix of LAYER, or the product of its two factors."""
    kernels = _kernels(network)
    return kernels[LAYER] if LAYER in kernels else kernels[f"{LAYER}_U"] @ kernels[f"{LAYER}_Vt"]


def _size(network):
    """Parameters, widths from the pixels to the logits, ranks of the matrices, None if whole."""
    outputs = {name: kernel.shape[1] for name, kernel in _kernels(network).items()}
    ranks = {n.removesuffix("_U"): outputs.pop(n) for n in [*outputs] if n.endswith("_U")}
    ranks = [ranks.get(name.removesuffix("_Vt")) for name in outputs]
    widths = [784, *outputs.values()]
    return {"parameters": network.count_params(), "widths": widths, "ranks": ranks}


def _read(network, digits):
    """What the network reads each test digit as, (n,)."""
    return model.logits(network, digits.x_test).argmax(axis=1)


def _images(columns):
    """Columns (784, n ≤ UNITS²) as images side by side."""
    blank = UNITS**2 - columns.shape[1]
    images = np.pad(columns, [(0, 0), (0, blank)]).reshape(28, 28, UNITS, UNITS)
    apart = np.pad(images, [(0, 1), (0, 1), (0, 0), (0, 0)])
    return apart.transpose(2, 0, 3, 1).reshape(29 * UNITS, 29 * UNITS)


def _colours(matrix, top):
    """A matrix as a picture: orange at −top, white at 0, purple at top."""
    colours = plt.get_cmap("PuOr", LEVELS)
    index = np.floor(LEVELS * (matrix / top + 1) / 2).clip(0, LEVELS - 1)
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette(colours(np.arange(LEVELS), bytes=True)[:, :3].tobytes())
    return _data_uri(picture)


def _digit(image):
    """An image (784,) as a picture, black on white."""
    return _data_uri(Image.fromarray(np.uint8(255 * (1 - image.reshape(28, 28)))))


def _data_uri(picture):
    content = io.BytesIO()
    picture.save(content, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def write(measured, path):
    """Write the page of what `measure` found, "epochs" and "seed" of its network added to it."""
    text = json.dumps(measured, ensure_ascii=False, separators=(",", ":"))
    text = text.replace("<", r"\u003c")  # so no text can end the script that holds it
    colours = {f"colour_{k}": figures.style(m)["color"] for k, m in enumerate(METHODS)}
    page = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    write_text(path, page.substitute(colours, measured=text))


def main(arguments=None):
    """Measure and write; return 0, or 2 for a bad argument."""
    parser = argparse.ArgumentParser(prog="python -m helpers.lab.page", description=__doc__)
    parser.add_argument("--D", nargs="+", type=int, default=RANKS, help="ranks")
    parser.add_argument("--dataset", default="auto", help="auto, mnist, subset or an .npz file")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the training data")
    parser.add_argument("--seed", type=int, default=0, help="of the baseline")
    chosen = parser.parse_args(arguments)
    dataset, epochs, seed = chosen.dataset, chosen.epochs, chosen.seed
    try:
        for D in chosen.D:
            parameters.check(D, dataset, epochs, seed, results="")
        digits = data.load(dataset)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    network = store.baseline(digits, epochs, seed).network
    measured = measure(network, model.build(seed), digits, chosen.D, seed=seed)
    folder = figures.folder_of_figures()
    write(measured | {"epochs": epochs, "seed": seed}, folder / NAME)
    print(f"Written: {NAME} in {folder.name}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
