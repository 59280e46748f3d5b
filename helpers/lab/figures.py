"""One look a method, one function a picture.

Each function draws its data, saves the picture whole as `name`.png in the folder (by default
$SVD_FIGURES, else figures/), and returns it: a notebook cell that ends with the call shows it.
"""

import os
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

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
_styled = plt.rc_context(STYLE)  # as a decorator: the style holds inside the function

# Okabe and Ito's colours, which the colour-blind can tell apart, without the yellow. Orange and
# sky blue are darker here: each colour has a contrast to white of 3 : 1 or more.
BLACK, ORANGE, SKY, GREEN = "#000000", "#C18600", "#4897C4", "#009E73"
BLUE, VERMILLION, PURPLE, DARK, GREY = "#0072B2", "#D55E00", "#CC79A7", "0.35", "0.55"


def _look(color, marker, linestyle="-"):
    return {"color": color, "marker": marker, "linestyle": linestyle}


# Marker and line alone tell any two methods apart.
LOOKS = {
    "baseline": _look(DARK, "", "--"),
    "training": _look(GREY, "o", "--"),
    "validation": _look(DARK, "h"),
    "dense": _look(DARK, "s", "--"),
    "plain": _look(BLUE, "o"),
    "plain, baseline by AdamW": _look(BLUE, "h", ":"),
    "whitened": _look(ORANGE, "s"),
    "two-sided": _look(SKY, "P"),
    "layer by layer": _look(PURPLE, "X", "-."),
    "layer by layer, shared ranks": _look(VERMILLION, "*", "--"),
    "fine-tuned": _look(GREEN, "^"),
    "fine-tuned, shared ranks": _look(GREEN, "v", "--"),
    "textbook": _look(BLUE, "<", ":"),
    "balanced": _look(SKY, "d", "-."),
    "distilled": _look(PURPLE, "d", ":"),
    "random factors": _look(GREY, "o", ":"),
    "random factors, shared ranks": _look(GREY, "v", ":"),
    "small dense network": _look(BLACK, "D", ":"),
    "from scratch": _look(ORANGE, "h", "-."),
    "dynamic": _look(PURPLE, "p"),
    "dynamic, shrinking ranks": _look(PURPLE, "p", "--"),
    "tangent": _look(PURPLE, ">"),
    "straight-through": _look(VERMILLION, "X"),
    "exact": _look(BLUE, "s", "-."),
    "biases and output alone": _look(GREY, "P", "--"),
    "factorized": _look(GREEN, "<", "--"),
    "neurons and ranks": _look(BLUE, "*"),
    "fine-tuned, neurons and ranks": _look(GREEN, "*", ":"),
    "neurons and ranks, random weights": _look(GREY, "*", "-."),
    "equal ranks": _look(GREY, "^", ":"),
    "shared ranks": _look(VERMILLION, "^", "--"),
    "neurons": _look(BLUE, "d"),
    "random neurons": _look(GREY, "d", "--"),
    "directions": _look(DARK, "<"),
}
UNKNOWN = _look(BLACK, "+", ":")
HOLLOW = {"markerfacecolor": "white"}
LAYERS = [_look(BLUE, "o"), _look(ORANGE, "s"), _look(GREEN, "D")]
LAYERS += [_look(VERMILLION, "^"), _look(PURPLE, "v")]
HATCHES = "", "///", "...", "xxx"  # of bars, which have no marker
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1}
ACCURACIES = 0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.992, 0.994, 0.996, 0.998
ACCURACIES += 0.999, 0.9995, 0.9998, 0.9999
BEST = ACCURACIES[-1]  # what is better is drawn there


def style(method):
    """The look of a method; "tangent, longer" has that of "tangent", but hollow and dotted."""
    if method in LOOKS:
        return LOOKS[method]
    look = LOOKS.get(method.partition(",")[0])
    return look | HOLLOW | {"linestyle": ":"} if look else UNKNOWN


def folder_of_figures():
    """$SVD_FIGURES, else figures/."""
    return Path(os.environ.get("SVD_FIGURES") or PROJECT / "figures")


@_styled
def curves(
    x,
    by_method,
    name,
    folder=None,
    *,
    xlabel,
    ylabel="test accuracy",
    xscale="linear",
    kept=None,
    baseline=None,
):
    """Accuracies of several methods as curves, on an axis that is logarithmic in the error.

    Args:
        x: values (n,) for all methods, or {method: values}.
        by_method: {method: accuracies (n,)}.
        name, folder: of the file.
        xlabel, ylabel: of the axes.
        xscale: "linear", or "log" with the values of x as ticks.
        kept: share of the parameters at each x, written below the ticks of a logarithmic axis.
        baseline: its accuracy, as a dashed line.
    """
    figure, (ax,) = _panels(1, 5)
    _draw(ax, x, by_method, xscale, kept, baseline)
    _accuracy_axis(ax, "y", ylabel)
    ax.set_xlabel(xlabel)
    return _saved(figure, name, folder)


@_styled
def digits(images, labels, name, folder=None):
    """One image (784,) per label, in a row."""
    figure, axes = _panels(len(images), 1.2)
    for ax, image, label in zip(axes, images, labels, strict=True):
        ax.imshow(np.reshape(image, (28, 28)), cmap="gray_r")
        ax.set_title(label)
        ax.axis("off")
    return _saved(figure, name, folder)


@_styled
def matrices(W, W_D, D, name, folder=None):
    """A matrix, its truncation and the difference side by side, one scale of colours.

    Rows and columns are sorted by the leading singular vectors of W_D, so that what is regular
    shows; every sixteenth row and column is drawn.
    """
    figure, axes = _panels(3, 3.2)
    U, _, Vt = np.linalg.svd(W_D, full_matrices=False)
    shown = np.ix_(np.argsort(U[:, 0])[::16], np.argsort(Vt[0])[::16])
    top = np.quantile(np.abs(W[shown]), 0.995)
    titles = "W", f"$W_D$, D = {D}", "W − $W_D$"
    for ax, matrix, title in zip(axes, (W, W_D, W - W_D), titles, strict=True):
        image = ax.imshow(matrix[shown], "PuOr", vmin=-top, vmax=top, interpolation="nearest")
        ax.set_title(title)
        ax.axis("off")
    figure.colorbar(image, ax=axes, shrink=0.8)
    return _saved(figure, name, folder)


@_styled
def directions(rows, name, folder=None):
    """Vectors (784,) as images of 28 × 28, a row each: {name: array (784, columns)}.

    The sign of a singular vector is free: here its largest entry is positive.
    """
    columns = min(vectors.shape[1] for vectors in rows.values())
    figure, axes = plt.subplots(len(rows), columns, figsize=(8, 1.1 * len(rows)), squeeze=False)
    for line, (row, vectors) in zip(axes, rows.items(), strict=True):
        for ax, vector in zip(line, vectors.T, strict=False):
            largest = vector[np.abs(vector).argmax()]
            ax.imshow((vector / largest).reshape(28, 28), cmap="PuOr", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(row, rotation=0, ha="right", va="center")
    return _saved(figure, name, folder)


@_styled
def loss_rise(by_layer, name, folder=None):
    """Measured rise of the loss against that predicted: {layer: (predicted, measured)}.

    Where the loss fell, a hollow mark shows by how much.
    """
    figure, ax = plt.subplots(figsize=(8, 4.6))
    for (layer, pair), look in zip(by_layer.items(), cycle(LAYERS), strict=False):
        predicted, measured = np.array(pair)
        rose, look = measured > 0, look | {"linestyle": ""}
        ax.loglog(predicted, np.abs(measured), **look | HOLLOW)
        ax.loglog(predicted[rose], measured[rose], **look, label=layer)
    ax.plot([], [], **_look(DARK, "o", "") | HOLLOW, label="the loss fell by as much")
    ends = ax.get_xlim()
    ax.plot(ends, ends, c=DARK, ls="--", lw=1, label="measured as predicted")
    ax.set(xlim=ends, xlabel="predicted: ½ Σ $s_i^2$ over what is dropped")
    ax.set_ylabel("measured change of the loss")
    return _saved(figure, name, folder)


@_styled
def noise_and_signal(panels, shape, name, folder=None):
    """Histograms of one kernel's singular values against the Marchenko–Pastur law.

    Args:
        panels: {title: (singular values (r,), standard deviation of the noise)}.
        shape: (n_in, n_out) of the kernel.
        name, folder: of the file.
    """
    figure, axes = _panels(len(panels), 3.6, sharex=True, sharey=False)
    for ax, (title, (s, std)) in zip(axes, panels.items(), strict=True):
        edge = svd.noise_edge(shape, std)
        sigma = np.linspace(edge / 500, edge, 500)
        beyond = s[s > edge]
        ax.hist(s, bins=80, density=True, color=SKY, label="singular values")
        ax.plot(sigma, svd.noise_density(sigma, shape, std), "k", lw=1.5, label="noise alone")
        ax.axvline(edge, color="k", ls=":", label="edge of the noise")
        marks = {"ls": "", "marker": "|", "ms": 14, "c": VERMILLION}
        ax.plot(beyond, np.zeros(len(beyond)), **marks, label="beyond the edge")
        ax.set(xlabel="singular value σ", title=f"{title},\nedge at {edge:.2f}")
    axes[0].set_ylabel("density")
    return _saved(figure, name, folder, columns=4)


@_styled
def spectra(svds, edges, D, name, folder=None):
    """Sorted singular values of each layer, with rank D and the edge of the shrunken noise.

    Args:
        svds: {layer name: helpers.svd.SVD}.
        edges: {layer name: edge}.
        D: the rank to mark.
        name, folder: of the file.
    """
    figure, axes = _panels(len(svds), 3.4, sharex=True)
    for ax, (layer, factors) in zip(axes, svds.items(), strict=True):
        above = int((factors.s > edges[layer]).sum())
        ax.loglog(np.arange(1, len(factors.s) + 1), factors.s, c=BLUE, label="singular values")
        ax.axhline(edges[layer], c="k", ls=":", lw=1.5, label="edge of the noise")
        ax.axvline(D, c=VERMILLION, ls="--", lw=1.5, label=f"D = {D}")
        ax.set(title=f"{layer}\n{above} above edge", xlabel="index i")
    ax.set_xticks([1, 10, 100, 1000], [1, 10, 100, 1000])
    top = max(factors.s[0] for factors in svds.values())
    axes[0].set(ylabel="singular value $σ_i$", ylim=(top / 500, 1.5 * top))
    return _saved(figure, name, folder)


@_styled
def error_by_rank(ranks, measured, s, name, folder=None):
    """Measured ‖W − W_D‖ as dots on the curve that Eckart and Young predict from s alone."""
    figure, (ax,) = _panels(1, 4)
    tail = np.sqrt(np.cumsum(np.square(s[::-1]))[::-1])
    ax.plot(np.arange(1, len(s)), tail[1:], c=DARK, label="predicted: √(Σ $σ_i^2$, i > D)")
    ax.plot(ranks, measured, "o", c=BLUE, label="measured: ‖W − $W_D$‖")
    ax.set(xlabel="D", ylabel="Frobenius norm", title="Error of one truncated matrix")
    return _saved(figure, name, folder)


@_styled
def shared_budget(by_rule, budgets, by_method, baseline, name, folder=None):
    """How rules share one budget of parameters among the layers, and the accuracy that keeps.

    Args:
        by_rule: {rule: {layer: rank}}.
        budgets: values of D (n,), each the budget of rank D in every layer.
        by_method: {method: accuracies (n,)}.
        baseline: its accuracy.
        name, folder: of the file.
    """
    figure, (left, right) = _panels(2, 5.5, sharey=False)
    layers, width = list(next(iter(by_rule.values()))), 0.8 / len(by_rule)
    for k, (rule, ranks) in enumerate(by_rule.items()):
        place = np.arange(len(layers)) + (k - (len(by_rule) - 1) / 2) * width
        look = {"color": style(rule)["color"], "hatch": HATCHES[k], "edgecolor": "white"}
        left.bar(place, [ranks[layer] for layer in layers], width, **look, label=rule)
    left.set_xticks(np.arange(len(layers)), layers, rotation=45)
    left.grid(axis="x", visible=False)
    left.set(ylabel="rank", title="Ranks of one budget")
    _draw(right, budgets, by_method, "log", None, baseline)
    _accuracy_axis(right, "y", "test accuracy")
    right.set(xlabel="budget, as D in every layer", title="What it keeps")
    return _saved(figure, name, folder)


@_styled
def factors(pairs, name, folder=None):
    """Singular values of each layer's product: {layer name: (before (D,), after (D,))}."""
    figure, axes = _panels(len(pairs), 3.2)
    for ax, (layer, (before, after)) in zip(axes, pairs.items(), strict=True):
        index = np.arange(1, len(before) + 1)
        ax.plot(index, before, "o", ms=4, mfc="none", c=DARK, label="before")
        ax.plot(index, after, "^", ms=4, c=GREEN, label="after")
        ax.set(title=layer, xlabel="index i")
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes[0].set(ylabel="singular value $σ_i$", ylim=(0, None))
    return _saved(figure, name, folder)


@_styled
def deployed(worth, limit, name, folder=None):
    """Ratios to the float32 baseline as dots, a row for each of bytes, latency and throughput.

    Args:
        worth: {network: {"bytes_ratio", "latency_ratio", "throughput_ratio"}}.
        limit: the ratio of multiply-adds.
        name, folder: of the file.
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
    return _saved(figure, name, folder, columns=4)


@_styled
def tangent_space(name, folder=None):
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
    return _saved(figure, name, folder)


@_styled
def step_times(times, name, folder=None):
    """Bars of seconds a training step: {network: seconds}, the first being the reference."""
    figure, (ax,) = _panels(1, 2.8)
    ratios = np.divide(list(times.values()), next(iter(times.values())))
    bars = ax.barh(list(times), ratios, color=[style(n)["color"] for n in times], height=0.6)
    ax.axvline(1, c=DARK, ls="--", lw=1)
    ax.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=4, bbox=BOX)
    ax.set(xlabel=f"time of a training step, {next(iter(times))} = 1", xmargin=0.1)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return _saved(figure, name, folder)


@_styled
def singular_values(spectra, D, name, folder=None):
    """Singular values by epoch, {derivative: {layer: list an epoch of s (r,)}}, a row each."""
    shape = len(spectra), max(map(len, spectra.values()))
    size = 8, 0.6 + 2.3 * shape[0]
    figure, rows = plt.subplots(*shape, figsize=size, sharey="col", squeeze=False)
    for axes, (derivative, by_layer) in zip(rows, spectra.items(), strict=True):
        for ax, (layer, history) in zip(axes, by_layer.items(), strict=True):
            s, color = np.array(history), style(derivative)["color"]
            ax.plot(s[:, D:], c=GREY, lw=0.8, label="dropped")
            ax.plot(s[:, :D], c=color, lw=0.8, label=f"kept, {derivative}")
            ax.plot(s[:, D - 1 : D], c="k", lw=2, label=f"$σ_{{{D}}}$, the last one kept")
            ax.plot(s[:, D : D + 1], "k:", lw=2, label=f"$σ_{{{D + 1}}}$, the first one dropped")
            ax.set(title=f"{derivative}, {layer.replace('_', ' ')}", xlabel="epoch", yscale="log")
            ax.yaxis.set(major_locator=LogLocator(subs=(1, 2, 3, 5)), major_formatter="{x:g}")
            ax.minorticks_off()
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
            ax.set_ylabel("singular value")
    return _saved(figure, name, folder)


@_styled
def ranks_by_epoch(ranks, D, name, folder=None):
    """Rank of each layer by epoch, [{layer: rank}, …], beside the rank D of equal ranks."""
    figure, (ax,) = _panels(1, 4)
    for layer, look in zip(ranks[0], cycle(LAYERS), strict=False):
        ax.plot([by_layer[layer] for by_layer in ranks], **look, label=layer)
    ax.axhline(D, c=DARK, ls="--", lw=1, label=f"D = {D}")
    ax.set(yscale="log", xlabel="epoch", ylabel="rank")
    low, high = ax.get_ylim()
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= t <= high]
    ax.set_yticks(ticks, ticks)
    ax.minorticks_off()
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return _saved(figure, name, folder)


@_styled
def comparison(measured, seeds, baseline, name, folder=None):
    """Test accuracies as marks, beside the spread over seeds of the table of results.

    Args:
        measured: {method: accuracy}, of the run at hand.
        seeds: {method: accuracies (seeds,)}; a method may be in either.
        baseline: its accuracy.
        name, folder: of the file.
    """
    figure, (ax,) = _panels(1, 4.2)
    methods = [*dict.fromkeys([*measured, *seeds])]
    for row, method in enumerate(methods):
        look, said = style(method), []
        if method in measured:
            ax.plot(_errors(measured[method]), row, **look | {"ms": 8})
            said.append(f"{measured[method]:.2%}")
        if method in seeds:
            mean, std = np.mean(seeds[method]), np.std(seeds[method], ddof=1)
            bar = {"fmt": "|", "ms": 14, "capsize": 4, "color": look["color"]}
            ax.errorbar(1 - mean, row + 0.25, xerr=std, **bar)
            said.append(f"({mean:.2%}, {len(seeds[method])})")
        # The numbers stand in a column of their own, where no mark can be under them.
        place = {"xycoords": ("axes fraction", "data"), "va": "center"}
        ax.annotate(" ".join(said), (1.02, row), **place)
    ax.axvline(1 - baseline, **LOOKS["baseline"], lw=1, label=f"baseline {baseline:.2%}")
    ax.plot([], [], **_look(DARK, "o", ""), label="this run")
    if seeds:
        said = "mean ± std. dev. of other runs (and how many)"
        ax.errorbar([], [], xerr=[], fmt="|", ms=14, c=DARK, label=said)
    ax.set_yticks(np.arange(len(methods)), methods)
    ax.set_ylim(len(methods) - 0.5, -0.5)
    _accuracy_axis(ax, "x", "test accuracy")
    ax.tick_params("x", labelsize=9)
    return _saved(figure, name, folder)


@_styled
def accuracy_by_size(curves, whole, baseline, published, name, folder=None):
    """Mean test accuracy against parameters, with its spread over seeds; one seed is hollow.

    Args:
        curves: {method: {D: (accuracies (seeds,), parameters)}}.
        whole: the baseline's parameters.
        baseline: its accuracies (seeds,).
        published: {source: [(parameters, accuracy), …]}.
        name, folder: of the file.
    """
    figure, (ax,) = _panels(1, 7)
    sizes = {}
    for method, by_rank in curves.items():
        look, (seeds, x) = style(method) | {"ms": 7}, zip(*by_rank.values(), strict=True)
        error = [float(_errors(np.mean(a))) for a in seeds]
        spread = [np.std(a, ddof=1) if len(a) > 1 else 0 for a in seeds]
        ax.plot(x, error, **look, label=method)
        ax.errorbar(x, error, spread, fmt="none", ecolor=look["color"], elinewidth=1, capsize=2)
        for point, a in zip(zip(x, error, strict=True), seeds, strict=True):
            if len(a) == 1:
                ax.plot(*point, **look | HOLLOW)
        sizes |= zip(by_rank, x, strict=True)
    for (source, points), marker in zip(published.items(), "x+12", strict=True):
        x, accuracy = np.transpose(points)
        ax.plot(x, 1 - accuracy, marker, ms=7, c="k", label=f"published: {source}")
    ax.axhline(1 - np.mean(baseline), **LOOKS["baseline"], lw=1, label="baseline")
    ax.plot([], [], **_look(DARK, "o", "") | HOLLOW, label="hollow: one seed")
    ax.set_xscale("log")
    _accuracy_axis(ax, "y", "test accuracy")
    ticks = [20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000]
    ax.set_xticks(ticks, [f"{tick:,}\n{tick / whole:.1%}" for tick in ticks])
    ax.set(xlabel="parameters, and the share of the baseline's")
    for D, x in sizes.items():
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        ax.annotate(f"D = {D}", (x, 1), (0, 6), **place, ha="center")
    return _saved(figure, name, folder, columns=2)


def _panels(columns, height, sharex=False, sharey=True):
    """A figure, and its axes in a row."""
    shared = {"sharex": sharex, "sharey": sharey, "squeeze": False}
    figure, axes = plt.subplots(1, columns, figsize=(8, height), **shared)
    return figure, axes[0]


def _saved(figure, name, folder, columns=3):
    """Save the figure whole, with one legend of all its axes below them, and return it."""
    entries = {}
    for ax in figure.axes:
        entries |= zip(*reversed(ax.get_legend_handles_labels()), strict=True)
    if entries:
        place, drawing = {"loc": "outside lower center"}, figure.canvas.get_renderer()
        legend = figure.legend(entries.values(), entries, **place, ncols=columns)
        if legend.get_window_extent(drawing).width > figure.bbox.width:
            legend.remove()
            figure.legend(entries.values(), entries, **place, ncols=columns - 1)
    with write_whole(Path(folder or folder_of_figures()) / f"{name}.png") as temporary:
        # No software version in the file: the same picture is the same bytes.
        figure.savefig(temporary, dpi=150, metadata={"Software": None})
    plt.close(figure)
    return figure


def _draw(ax, x, by_method, xscale, kept, baseline):
    """Errors of each method against x, and ticks of x."""
    for method, accuracies in by_method.items():
        values = x[method] if isinstance(x, dict) else x
        ax.plot(values, _errors(accuracies), **style(method), label=method)
    if baseline is not None:
        ax.axhline(1 - baseline, **LOOKS["baseline"], lw=1, label="baseline")
    ax.set_xscale(xscale)
    if xscale == "linear":
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        return
    shares = [""] * len(x) if kept is None else [f"\n{share:.1%}" for share in kept]
    apart, last = (max(x) / min(x)) ** (1 / 12), 0  # as below
    ticks = {}
    for value, share in zip(x, shares, strict=True):
        if value >= apart * last:
            ticks[value], last = f"{value:,}{share}", value
    ax.set_xticks(list(ticks), ticks.values())


def _errors(accuracies):
    return 1 - np.minimum(accuracies, BEST)


def _accuracy_axis(ax, axis, label):
    """Make the axis of errors logarithmic, and write accuracies: near 100 % is what matters."""
    ax.set(**{f"{axis}scale": "log", f"{axis}label": label})
    line = getattr(ax, f"{axis}axis")
    low, high = np.searchsorted(ACCURACIES, sorted(1 - line.get_view_interval()))
    within = ACCURACIES[max(0, low - 1) : high + 1]  # one tick beyond the data at least
    apart = ((1 - within[0]) / (1 - within[-1])) ** (1 / 14)  # nearer labels would touch
    shown = within[:1]
    for accuracy in within[1:]:
        if 1 - shown[-1] >= apart * (1 - accuracy):
            shown += (accuracy,)
    shown = np.array(shown)
    line.set_ticks(1 - shown, [f"{a:.4g}%" for a in 100 * shown])
    ax.minorticks_off()
    line.set_inverted(True)
