"""The page with a slider: truncation at every D, in a browser, without a kernel.

`python -m helpers.lab.page` cuts the baseline at some values of D, by the plain SVD and by the best
method that needs no training, and writes figures/truncation.html ($SVD_FIGURES names another
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
from .files import write_whole

NAME = "truncation.html"
RANKS = (1, 2, 3, 5, 7, 10, 14, 20, 30, 50, 70, 100, 200)
LAYER = "hidden_1"  # whose matrix is shown: its columns are images
UNITS = 4  # down and across, whose columns are shown
LEVELS = 64  # of colour: with more, noise takes up far more room
DIGITS = 12  # shown, at most, of those misread
PLAIN, BEST = "plain", "layer by layer, shared ranks"
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TEMPLATE = Path(__file__).with_name("page.html")


def measure(network, untrained, digits, ranks=RANKS):
    """What the page shows, ready to be written as JSON.

    Args:
        network: the trained baseline, (n, 784) → (n, 10) logits; not changed.
        untrained: the network it was trained from.
        digits: helpers.data.Data.
        ranks: values of D; the full rank is added, and stands for all that cut nothing.

    Returns:
        dict: what there is to say of the first weight matrix, and for each of the "methods" a list
        of its cuts, one for each "D". Pictures are data URIs. "misread" counts the test digits
        that the uncut network reads right and the cut one does not; "digits" are the first of
        them, as [index, label, what it is read as].
    """
    svds, seen = compress.decompose(network), compress.observe(network, digits.x_train, LOSS)
    W, right = _kernel(network), _read(network, digits) == digits.y_test
    top = float(np.quantile(np.abs(W), 0.995))

    def look(cut, per_layer):
        W_D, read = _kernel(cut), _read(cut, digits)
        worse = np.flatnonzero(right & (read != digits.y_test))
        return {
            "ranks": [*per_layer.values()],
            "accuracy": float(np.mean(read == digits.y_test)),
            "parameters": compress.kept_parameters(network, per_layer),
            "s": _rounded(svd.decompose(W_D).s[: per_layer[LAYER]]),
            "W_D": _colours(_units(W_D), top),
            "rest": _colours(_units(W - W_D), top),
            "misread": len(worse),
            "digits": [[int(i), int(digits.y_test[i]), int(read[i])] for i in worse[:DIGITS]],
        }

    full = {name: len(factors.s) for name, factors in svds.items()}
    ranks = sorted(D for D in {*ranks} if D < max(full.values()))
    methods, line = {PLAIN: [], BEST: []}, Line()
    for D in ranks:
        line.say(f"cutting to D = {D}")
        equal, shared = dict.fromkeys(svds, D), compress.shared_ranks(seen.svds, D)
        methods[PLAIN].append(look(compress.factorize(network, equal, svds), equal))
        methods[BEST].append(look(seen.layer_by_layer(shared), shared))
    for cuts in methods.values():
        cuts.append(look(network, full))
    found = {i for cuts in methods.values() for cut in cuts for i, _, _ in cut["digits"]}
    W_0 = _kernel(untrained)
    left = np.vdot(W_0, W) / np.vdot(W_0, W_0)  # of what training began with
    return {
        "dataset": digits.name,
        "D": [*ranks, max(full.values())],
        "methods": methods,
        "images": {str(i): _digit(digits.x_test[i]) for i in sorted(found)},
        "shape": list(W.shape),
        "units": UNITS**2,
        "W": _colours(_units(W), top),
        "top": top,
        "scale": _colours(np.linspace(-top, top, 2 * LEVELS)[None], top),
        "s": _rounded(svds[LAYER].s),
        "edge": float(left * svd.noise_edge(W.shape, model.initial_std(len(W)))),
    }


def _kernel(network):
    """The layer's matrix, or the product of its two factors."""
    kernels = {layer.name: layer.kernel for layer in network.layers if layer.weights}
    if LAYER in kernels:
        return kernels[LAYER].numpy()
    return kernels[f"{LAYER}_U"].numpy() @ kernels[f"{LAYER}_Vt"].numpy()


def _read(network, digits):
    """What the network reads each test digit as, (n,)."""
    return model.logits(network, digits.x_test).argmax(axis=1)


def _units(W):
    """Some columns of W (784, n_out), evenly spread, as images side by side."""
    columns = W[:, :: W.shape[1] // UNITS**2].reshape(28, 28, UNITS, UNITS)
    apart = np.pad(columns, [(0, 1), (0, 1), (0, 0), (0, 0)])
    return apart.transpose(2, 0, 3, 1).reshape(29 * UNITS, 29 * UNITS)


def _rounded(values):
    """To four digits, which are more than a screen shows."""
    return [float(f"{value:.4g}") for value in values]


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
    page = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        measured=text.replace("<", r"\u003c"),  # no text in it can end the script that holds it
        plain=figures.style(PLAIN)["color"],
        best=figures.style(BEST)["color"],
    )
    with write_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


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
    measured = measure(network, model.build(seed), digits, chosen.D)
    folder = figures.folder_of_figures()
    write(measured | {"epochs": epochs, "seed": seed}, folder / NAME)
    print(f"Written: {NAME} in {folder.name}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
