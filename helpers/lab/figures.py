"""One look a method, one function a picture.

Each picture function takes, after its data, `name` and `folder`: it saves the picture whole, as
`name`.png in the folder (by default $SVD_FIGURES, else figures/), and returns it, so that a
notebook cell that ends with the call shows it.
"""

import functools
import inspect
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter

from .. import PROJECT, svd
from .files import write_whole

# All pictures are eight inches wide, so that the type is legible when a page shows them small.
STYLE = {
    "figure.dpi": 80,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "lines.markersize": 5.5,
    "hatch.linewidth": 1.5,
    "legend.frameon": False,
}
# Okabe and Ito's colours, which the colour-blind can tell apart, without the yellow; two greys.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, DARK, GREY = "#0072B2", "#D55E00", "#CC79A7", "0.35", "0.65"


def _look(color, marker, linestyle="-"):
    return {"color": color, "marker": marker, "linestyle": linestyle}


# Marker and line alone tell any two methods apart; dashes mean that ranks are shared. The names
# that one method has in several pictures stand together: what is called dynamic is trained with
# the tangent derivative.
LOOKS = {
    "baseline | dense": _look(DARK, "", "--"),
    "truncated | plain": _look(BLUE, "o"),
    "truncated, baseline by AdamW": _look(BLUE, "h", ":"),
    "whitened": _look(ORANGE, "s"),
    "two-sided": _look(SKY, "P"),
    "layer by layer": _look(SKY, "X", "-."),
    "layer by layer, shared ranks": _look(VERMILLION, "*", "--"),
    "fine-tuned": _look(GREEN, "^"),
    "fine-tuned, shared ranks | fine-tuned, shared | shared": _look(GREEN, "v", "--"),
    "textbook": _look(BLUE, "<", ":"),
    "balanced": _look(SKY, "d", "-."),
    "distilled": _look(PURPLE, "p"),
    "random factors | random": _look(GREY, "o", ":"),
    "random factors, shared ranks | random, shared": _look(GREY, "v", ":"),
    "small dense network | small dense": _look(BLACK, "D", ":"),
    "from scratch": _look(BLACK, "h", "-."),
    "dynamic | equal ranks | tangent": _look(PURPLE, ">"),
    "dynamic, shrinking ranks | shrinking ranks": _look(PURPLE, "p", "--"),
    "straight_through": _look(VERMILLION, "X"),
    "exact": _look(BLUE, "s", "-."),
    "equal": _look(GREY, "^", ":"),
    "by loss": _look(VERMILLION, "^", "--"),
}
STYLES = {name: look for names, look in LOOKS.items() for name in names.split(" | ")}
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1}
UNKNOWN = _look(BLACK, "+", ":")
HATCHES = "", "///", "...", "xxx"  # of the bars of one group, which have no marker
ACCURACIES = (0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.992, 0.994)  # ticks


def style(method):
    """The look of a method; that of "tangent" for "tangent, longer", unless it has its own."""
    return STYLES.get(method) or STYLES.get(method.partition(",")[0], UNKNOWN)


def _picture(draw):
    """Make a function that draws from data and returns a figure one that saves it, too."""
    signature = inspect.signature(draw)
    more = inspect.signature(lambda name, folder=None: None).parameters
    signature = signature.replace(parameters=[*(signature.parameters | more).values()])

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        data = signature.bind(*args, **kwargs).arguments
        name, folder = data.pop("name"), data.pop("folder", None)
        folder = Path(folder or os.environ.get("SVD_FIGURES") or PROJECT / "figures")
        with plt.rc_context(STYLE):
            figure = draw(**data)
            with write_whole(folder / f"{name}.png") as temporary:
                # No software version in the file: the same picture is the same bytes.
                figure.savefig(temporary, dpi=150, metadata={"Software": None})
        plt.close(figure)
        return figure

    drawn.__signature__ = signature
    return drawn


@_picture
def digits(images, labels):
    """One image (784,) per label, in a row."""
    figure, axes = _panels(len(images), 1.2)
    for ax, image, label in zip(axes, images, labels, strict=True):
        ax.imshow(np.reshape(image, (28, 28)), cmap="gray_r")
        ax.set_title(label)
        ax.axis("off")
    return figure


@_picture
def learning_curve(history):
    """Accuracy on training and validation data after each epoch, from `fit`'s history."""
    figure, (ax,) = _panels(1, 4.6)
    epochs = np.arange(1, len(history["accuracy"]) + 1)
    training, validation = (1 - np.array(history[k]) for k in ("accuracy", "val_accuracy"))
    ax.plot(epochs, training, "o--", mfc="white", c=GREY, label="training, with dropout")
    ax.plot(epochs, validation, "o-", c=DARK, label="validation")
    _whole_numbers(ax, title="Learning curve of the baseline", xlabel="epoch")
    _errors_as_accuracies(ax, "accuracy")
    return _with_legend(figure)


@_picture
def matrices(W, W_D, D):
    """A matrix, its truncation and the difference side by side, one scale of colours.

    Rows and columns are sorted by the leading singular vectors of W_D, so that what is regular
    shows; of each sixteenth row and column.
    """
    figure, axes = _panels(3, 3.2)
    U, _, Vt = np.linalg.svd(W_D, full_matrices=False)
    shown = np.ix_(np.argsort(U[:, 0])[::16], np.argsort(Vt[0])[::16])
    top = np.quantile(np.abs(W[shown]), 0.995)
    titles = "W", f"$W_D$, D = {D}", "W − $W_D$"
    for ax, matrix, title in zip(axes, (W, W_D, W - W_D), titles, strict=True):
        image = ax.imshow(matrix[shown], cmap="PuOr", vmin=-top, vmax=top)
        ax.set_title(title)
        ax.axis("off")
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


@_picture
def directions(rows):
    """Vectors (784,) as images of 28 × 28, a row each: {name: array (784, columns)}."""
    columns = min(vectors.shape[1] for vectors in rows.values())
    figure, axes = plt.subplots(len(rows), columns, figsize=(8, 1.1 * len(rows)))
    for line, (name, vectors) in zip(axes, rows.items(), strict=True):
        for ax, vector in zip(line, vectors.T, strict=False):
            top = np.abs(vector).max()
            ax.imshow(vector.reshape(28, 28), cmap="PuOr", vmin=-top, vmax=top)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


@_picture
def loss_rise(by_layer):
    """Measured rise of the loss against that predicted: {layer: (predicted, measured)}.

    Where the loss fell there is nothing to show on a logarithmic axis.
    """
    figure, ax = plt.subplots(figsize=(8, 4.6))
    colors, markers = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE), "osD^v"
    for (layer, pair), color, marker in zip(by_layer.items(), colors, markers, strict=False):
        predicted, measured = np.array(pair)
        ax.loglog(predicted, measured, marker, c=color, label=layer)
    ends = ax.get_xlim()
    ax.plot(ends, ends, c=DARK, ls="--", lw=1, label="measured as predicted")
    ax.set(xlim=ends, xlabel="predicted: ½ Σ $s_i^2$ over what is dropped")
    ax.set_ylabel("measured rise of the loss")
    return _with_legend(figure)


@_picture
def noise_and_signal(panels, shape):
    """Histograms of one kernel's singular values against the Marchenko–Pastur law.

    Args:
        panels: {title: (singular values (r,), standard deviation of the noise)}.
        shape: (n_in, n_out) of the kernel.
    """
    figure, axes = _panels(len(panels), 3.6, sharey=False)
    for ax, (title, (s, std)) in zip(axes, panels.items(), strict=True):
        edge = svd.noise_edge(shape, std)
        sigma = np.linspace(edge / 500, edge, 500)
        ax.hist(s, bins=80, density=True, color=SKY, label="singular values")
        ax.plot(sigma, svd.noise_density(sigma, shape, std), "k", lw=1.5, label="noise alone")
        ax.axvline(edge, color="k", ls=":", label="edge of the noise")
        ax.set(xlabel="singular value σ", title=f"{title},\nedge at {edge:.2f}")
    axes[0].set_ylabel("density")
    return _with_legend(figure)


@_picture
def spectra(svds, edges, D):
    """Sorted singular values of each layer, with rank D and the edge of the shrunken noise.

    Args:
        svds: {layer name: helpers.svd.SVD}.
        edges: {layer name: edge}.
        D: the rank to mark.
    """
    figure, axes = _panels(len(svds), 3.4)
    for ax, (layer, factors) in zip(axes, svds.items(), strict=True):
        ax.loglog(np.arange(1, len(factors.s) + 1), factors.s, c=BLUE, label="singular values")
        ax.axhline(edges[layer], c="k", ls=":", lw=1.5, label="edge of the noise")
        ax.axvline(D, c=VERMILLION, ls="--", lw=1.5, label=f"D = {D}")
        ax.set(title=layer, xlabel="index i")
    top = max(factors.s[0] for factors in svds.values())
    axes[0].set(ylabel="singular value $σ_i$", ylim=(top / 500, 1.5 * top))
    return _with_legend(figure)


@_picture
def error_by_rank(ranks, measured, s):
    """Measured ‖W − W_D‖ as dots on the curve that Eckart and Young predict from s alone."""
    figure, (ax,) = _panels(1, 4)
    tail = np.sqrt(np.cumsum(np.square(s[::-1]))[::-1])
    ax.plot(np.arange(1, len(s)), tail[1:], c=DARK, label="predicted: √(Σ $σ_i^2$, i > D)")
    ax.plot(ranks, measured, "o", c=BLUE, label="measured: ‖W − $W_D$‖")
    ax.set(xlabel="D", ylabel="Frobenius norm", title="Error of one truncated matrix")
    return _with_legend(figure)


@_picture
def accuracy_by_rank(ranks, curves, kept, baseline):
    """Accuracy against D, and against the fraction of parameters kept.

    Args:
        ranks: the values of D.
        curves: {method: accuracy at each D}.
        kept: fraction of the baseline's parameters kept at each D.
        baseline: its accuracy.
    """
    figure, axes = _panels(2, 4.4)
    for ax, x in zip(axes, (ranks, kept), strict=True):
        _test_accuracies(ax, x, curves, baseline)
    axes[0].set_xlabel("D, singular values kept per layer")
    axes[0].set_xticks([10, 20, 50, 100, 200, 1000], [10, 20, 50, 100, 200, 1000])
    _parameters_kept(axes[1], [0.02, 0.05, 0.1, 0.2, 0.5, 1])
    axes[1].set_ylabel("")
    return _with_legend(figure)


@_picture
def shared_budget(by_rule, layers, ranks, curves, baseline):
    """How rules share one budget of parameters among the layers, and the accuracy that keeps.

    Args:
        by_rule: {rule: list of one rank a layer}.
        layers: their names.
        ranks: budgets, as the D of equal ranks.
        curves: {"method, rule": accuracy at each budget}, two rules a method.
        baseline: its accuracy.
    """
    figure, (left, right) = _panels(2, 5.5, sharey=False)
    _bars(left, layers, by_rule)
    left.set(ylabel="rank", title="Ranks of one budget")
    left.tick_params(axis="x", rotation=45)
    _test_accuracies(right, ranks, curves, baseline)
    right.set(xlabel="budget, as D in every layer", title="What it keeps")
    right.set_xticks(ranks, ranks)
    return _with_legend(figure)


@_picture
def fine_tuning(curves, baseline):
    """Validation accuracy after each epoch: {start: list}, and the baseline's level."""
    figure, (ax,) = _panels(1, 5)
    for start, accuracy in curves.items():
        ax.plot(np.arange(1, len(accuracy) + 1), accuracy, **style(start), label=start)
    _validation_by_epoch(ax, baseline)
    return _with_legend(figure, columns=4)


@_picture
def factors(pairs):
    """Singular values of each layer's product: {layer name: (before (D,), after (D,))}."""
    figure, axes = _panels(len(pairs), 3.2)
    for ax, (layer, (before, after)) in zip(axes, pairs.items(), strict=True):
        index = np.arange(1, len(before) + 1)
        ax.plot(index, before, "o", ms=4, mfc="none", c=DARK, label="before")
        ax.plot(index, after, "^", ms=4, c=GREEN, label="after")
        _whole_numbers(ax, title=layer, xlabel="index i")
    axes[0].set(ylabel="singular value $σ_i$", ylim=(0, None))
    return _with_legend(figure)


@_picture
def accuracy_by_parameters(kept, curves, baseline):
    """Test accuracy against the fraction of parameters kept: {method: list}, one per fraction."""
    figure, (ax,) = _panels(1, 5)
    _test_accuracies(ax, kept, curves, baseline)
    _parameters_kept(ax, kept, decimals=1)
    return _with_legend(figure)


@_picture
def deployed(worth, limit):
    """Ratios to the float32 baseline as dots, a row for each of bytes, latency and throughput.

    Args:
        worth: {network: {"bytes_ratio", "latency_ratio", "throughput_ratio"}}.
        limit: the ratio of multiply-adds.
    """
    rows = {"file size": "bytes", "latency": "latency", "throughput": "throughput"}
    figure, (ax,) = _panels(1, 3.4)
    for network, ratios in worth.items():
        values = [ratios[f"{key}_ratio"] for key in rows.values()]
        color, marker = (DARK, "s") if "baseline" in network else (GREEN, "^")
        fill = color if "int8" in network else "white"
        ax.plot(values, np.arange(len(rows)), marker, ms=9, c=color, mfc=fill, label=network)
        for row, value in enumerate(values):
            ax.text(value, row - 0.22, f"{value:.1f}", ha="center", bbox=BOX)
    ax.axvline(limit, c=GREY, ls="--", lw=1.5, label="ratio of multiply-adds")
    ax.set(xscale="log", xlabel="times better than the float32 baseline", ylim=(2.5, -0.6))
    ax.set_xticks([1, 2, 5, 10, 20, 50, 100], [1, 2, 5, 10, 20, 50, 100])
    ax.set_yticks(np.arange(len(rows)), rows)
    ax.minorticks_off()
    return _with_legend(figure, columns=4)


@_picture
def tangent_space():
    """The cone of symmetric rank-1 matrices [[a, b], [b, c]], ac = b², and a tangent plane."""
    figure = plt.figure(figsize=(6, 4.6))
    ax = figure.add_subplot(projection="3d", computed_zorder=False)
    r, angle = np.meshgrid(np.linspace(0, 2, 20), np.linspace(0, 2 * np.pi, 60))
    # u uᵀ with u = √r (cos, sin); twice as far round b, so that the cone is round.
    cone = r * (1 + np.cos(angle)) / 2, r * np.sin(angle) / 2, r * (1 - np.cos(angle)) / 2
    ax.plot_surface(*cone, color=BLUE, alpha=0.25, linewidth=0, zorder=0)
    W = np.array([1.0, 0, 0])  # a, b, c: the tangent plane there is c = 0
    a, b = np.meshgrid([0.3, 1.9], [-0.8, 0.8])
    ax.plot_surface(a, b, np.zeros_like(a), color=GREEN, alpha=0.2, zorder=1)
    G, projection = np.array([0.5, 0.45, 0.9]), np.array([0.5, 0.45, 0])
    ax.plot(*np.stack([W + G, W + projection], 1), ":", c=GREY, zorder=2)
    ax.quiver(*W, *G, color=DARK, lw=2, arrow_length_ratio=0.12, zorder=3)
    ax.quiver(*W, *projection, color=GREEN, lw=2, arrow_length_ratio=0.15, zorder=3)
    ax.scatter(*W, c="k", s=25, zorder=4)
    ax.text(*(W + G), " G", color=DARK)
    ax.text(*(W + projection - [0, 0, 0.08]), "its projection", color=GREEN, ha="center", va="top")
    ax.text(*(W - [0, 0.1, 0.15]), "f(W)", ha="right")
    ax.set(xlabel="a", ylabel="b", zlabel="c", xlim=(0, 2), ylim=(-1, 1), zlim=(0, 2))
    ax.set(xticks=[0, 1, 2], yticks=[-1, 0, 1], zticks=[0, 1, 2])
    ax.set_box_aspect((1, 1, 1), zoom=0.88)
    ax.view_init(elev=22, azim=-50)
    return figure


@_picture
def step_times(times):
    """Bars of seconds a training step: {network: seconds}, the first being the reference."""
    figure, (ax,) = _panels(1, 2.8)
    ratios = np.divide(list(times.values()), next(iter(times.values())))
    bars = ax.barh(list(times), ratios, color=[style(n)["color"] for n in times], height=0.6)
    ax.axvline(1, c=DARK, ls="--", lw=1)
    ax.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=4, bbox=BOX)
    ax.set(xlabel="time of a training step, dense = 1", xmargin=0.1)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return figure


@_picture
def singular_values(spectra, D):
    """Singular values by epoch, {derivative: {layer: list an epoch of s (r,)}}, a row each."""
    shape = len(spectra), max(map(len, spectra.values()))
    figure, rows = plt.subplots(
        *shape, figsize=(8, 0.6 + 2.3 * shape[0]), sharey="col", squeeze=False
    )
    for axes, (derivative, by_layer) in zip(rows, spectra.items(), strict=True):
        for ax, (layer, history) in zip(axes, by_layer.items(), strict=True):
            s = np.array(history)[:, : 2 * D]
            ax.plot(s[:, D:], c=GREY, lw=0.8)
            ax.plot(s[:, :D], c=style(derivative)["color"], lw=0.8)
            ax.plot(s[:, D - 1 : D], c="k", lw=2, label=f"$σ_{{{D}}}$, the last one kept")
            ax.plot(s[:, D : D + 1], "k:", lw=2, label=f"$σ_{{{D + 1}}}$, the first one dropped")
            # Around the cut: on an axis of all values it would be a line.
            middle = min(D - 1, s.shape[1] - 1) // 2
            ax.set_ylim(0.9 * s[:, -1].min(), 1.15 * s[:, middle].max())
            _whole_numbers(ax, title=f"{derivative}, {layer}", xlabel="epoch")
    return _with_legend(figure)


@_picture
def ranks_by_epoch(ranks, D):
    """Rank of each layer by epoch, [{layer: rank}, …], beside the rank D of equal ranks."""
    figure, (ax,) = _panels(1, 4)
    for k, layer in enumerate(ranks[0]):
        curve = [by_layer[layer] for by_layer in ranks]
        ax.plot(curve, c=str(0.15 * k), marker="osD^v"[k % 5], lw=1, label=layer)
    ax.axhline(D, c=DARK, ls="--", lw=1)
    ax.set(yscale="log", ylabel="rank")
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500) if t <= max(ranks[0].values())]
    ax.set_yticks(ticks, ticks)
    ax.minorticks_off()
    _whole_numbers(ax, xlabel="epoch")
    return _with_legend(figure, columns=5)


@_picture
def training_time(courses):
    """Validation accuracy against seconds of training: {method: (seconds, accuracies)}."""
    figure, (ax,) = _panels(1, 5)
    for method, (seconds, accuracies) in courses.items():
        ax.plot(seconds, 1 - np.array(accuracies), **style(method), label=method)
    least = min(1 - max(accuracies) for _, accuracies in courses.values())
    ax.set_ylim(0.9 * least, 6 * least)  # the contest, not the first epochs
    _errors_as_accuracies(ax, "validation accuracy")
    ax.set(xlabel="seconds of training, the baseline's included")
    return _with_legend(figure)


@_picture
def dynamic_curves(curves, baseline):
    """Validation accuracy by epoch, {derivative: [(by exact SVD, by tracked factors) per seed]}."""
    figure, (ax,) = _panels(1, 5)
    for derivative, pairs in curves.items():
        look = style(derivative)
        for k, (exact, tracked) in enumerate(pairs):
            epochs = np.arange(1, len(exact) + 1)
            ax.plot(epochs, exact, **look, label=derivative if k == 0 else None)
            ax.plot(epochs, tracked, **look | {"linestyle": ":"}, mfc="white")
    ax.plot([], [], "k:o", mfc="white", label="with tracked factors")
    _validation_by_epoch(ax, baseline)
    return _with_legend(figure)


@_picture
def comparison(accuracies, baseline):
    """Test accuracy of each method as dots, one a seed: {method: list}."""
    figure, (ax,) = _panels(1, 4.2)
    for row, (method, values) in enumerate(accuracies.items()):
        ax.plot(values, [row] * len(values), **style(method) | {"linestyle": ""}, ms=8, alpha=0.8)
        # The means stand in a column of their own, where no dot can be under them.
        place = {"xycoords": ("axes fraction", "data"), "va": "center"}
        ax.annotate(f"{np.mean(values):.2%}", (1.02, row), **place)
    _baseline(ax, baseline, ax.axvline, f"baseline {baseline:.2%}")
    ax.set_yticks(np.arange(len(accuracies)), accuracies)
    ax.set(ylim=(len(accuracies) - 0.5, -0.5), xlabel="test accuracy")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    return _with_legend(figure)


@_picture
def accuracy_by_size(curves, whole, baseline, published):
    """Mean test accuracy against parameters, with its spread over seeds.

    Args:
        curves: {method: {D: (accuracies (seeds,), parameters)}}.
        whole: the baseline's parameters.
        baseline: its accuracies (seeds,).
        published: {source: [(parameters, accuracy), …]}.
    """
    figure, (ax,) = _panels(1, 7)
    sizes = {}
    for method, by_rank in curves.items():
        look, (seeds, x) = style(method), zip(*by_rank.values(), strict=True)
        error = [1 - np.mean(a) for a in seeds]
        spread = [np.std(a, ddof=1) if len(a) > 1 else 0 for a in seeds]
        ax.plot(x, error, **look, ms=7, label=method)
        ax.errorbar(x, error, spread, fmt="none", ecolor=look["color"], elinewidth=1, capsize=2)
        sizes |= zip(by_rank, x, strict=True)
    for (source, points), marker in zip(published.items(), "x+12", strict=True):
        x, accuracy = np.transpose(points)
        ax.plot(x, 1 - accuracy, marker, ms=7, c="k", label=f"published: {source}")
    _baseline(ax, 1 - np.mean(baseline))
    _errors_as_accuracies(ax, "test accuracy", xscale="log")
    ticks = [20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000]
    ax.set_xticks(ticks, [f"{tick:,}\n{tick / whole:.1%}" for tick in ticks])
    ax.set(xlabel="parameters, and the share of the baseline's")
    for D, x in sizes.items():
        ax.annotate(f"D = {D}", (x, 1), xycoords=("data", "axes fraction"), ha="center")
    return _with_legend(figure, columns=2)


def _panels(columns, height, sharey=True):
    """A figure, and its axes in a row."""
    figure, axes = plt.subplots(1, columns, figsize=(8, height), sharey=sharey, squeeze=False)
    return figure, axes[0]


def _with_legend(figure, columns=3):
    """The figure, with one legend of all its axes below them, where no data can be under it."""
    entries = {}
    for ax in figure.axes:
        entries |= zip(*reversed(ax.get_legend_handles_labels()), strict=True)
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns)
    return figure


def _whole_numbers(ax, **labels):
    ax.set(**labels)
    ax.xaxis.get_major_locator().set_params(integer=True)


def _bars(ax, names, groups):
    """Bars beside one another at each of the names: {method: list of values}."""
    width, x = 0.8 / len(groups), np.arange(len(names))
    for k, (method, values) in enumerate(groups.items()):
        place = x + (k - (len(groups) - 1) / 2) * width
        look = {"color": style(method)["color"], "hatch": HATCHES[k % len(HATCHES)]}
        ax.bar(place, values, width, **look, edgecolor="white", label=method)
    ax.set_xticks(x, names)
    ax.grid(axis="x", visible=False)


def _test_accuracies(ax, x, curves, baseline):
    for method, accuracy in curves.items():
        ax.plot(x, 1 - np.array(accuracy), **style(method), label=method)
    _baseline(ax, 1 - baseline)
    _errors_as_accuracies(ax, "test accuracy", xscale="log")


def _parameters_kept(ax, ticks, decimals=0):
    ax.set(xlabel="parameters kept", xticks=ticks)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals))


def _baseline(ax, level, line=None, label="baseline"):
    (line or ax.axhline)(level, **STYLES["baseline"], lw=1, label=label)


def _errors_as_accuracies(ax, label, xscale="linear"):
    """Errors on a logarithmic axis, written as accuracies: near 100 % is where things differ."""
    ax.set(xscale=xscale, yscale="log", ylabel=label)
    low, high = np.searchsorted(ACCURACIES, sorted(1 - np.array(ax.get_ylim())))
    shown = np.array(ACCURACIES[max(0, low - 1) : high + 1])  # one tick beyond the data at least
    ax.set_yticks(1 - shown, [f"{a:.3g}%" for a in 100 * shown])
    ax.minorticks_off()
    ax.yaxis.set_inverted(True)


def _validation_by_epoch(ax, baseline):
    _baseline(ax, baseline)
    _whole_numbers(ax, xlabel="epoch", ylabel="validation accuracy")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
