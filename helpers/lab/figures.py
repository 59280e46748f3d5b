"""One look a method, one function a picture.

Each function draws its data, saves the picture whole as `name`.png in `folder` (by default
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
    "plain": _look(BLUE, "o"),
    "plain, baseline by AdamW": _look(BLUE, "h", ":"),
    "whitened": _look(ORANGE, "s"),
    "two-sided": _look(SKY, "P"),
    "layer by layer": _look(PURPLE, "X", "-."),
    "layer by layer, shared ranks": _look(PURPLE, "d", "--"),
    "fine-tuned": _look(GREEN, "^"),
    "fine-tuned, shared ranks": _look(GREEN, "v", "--"),
    "random factors": _look(GREY, "o", ":"),
    "random factors, shared ranks": _look(GREY, "v", ":"),
    "small dense network": _look(BLACK, "D", ":"),
    "dynamic": _look(PURPLE, "p"),
    "dynamic, shrinking ranks": _look(PURPLE, "p", "--"),
    "tangent": _look(PURPLE, ">"),
    "straight-through": _look(VERMILLION, "X"),
    "exact": _look(BLUE, "s", "-."),
    "biases and output alone": _look(GREY, "P", "--"),
    "neurons and ranks": _look(VERMILLION, "*"),
    "fine-tuned, neurons and ranks": _look(GREEN, "*", ":"),
    "neurons and ranks, random weights": _look(GREY, "*", "-."),
}
UNKNOWN = _look(BLACK, "+", ":")
HOLLOW = {"markerfacecolor": "white"}
LAYERS = [*map(_look, (BLUE, ORANGE, GREEN, VERMILLION, PURPLE), "osD^v")]
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1}
ACCURACIES = 0, 0.5, 0.8, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.992, 0.994, 0.996, 0.998
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
    seeds=None,
):
    """Accuracies of several methods as curves, on an axis that is logarithmic in the error.

    Args:
        x: values (n,) for all methods, or {method: values}.
        by_method: {method: accuracies (n,)}.
        xscale: "linear", or "log" with the values of x as ticks and `kept` below them.
        kept: share of the parameters at each x.
        baseline: its accuracy, as a dashed line.
        seeds: {method: {x: accuracies of other seeds}}, drawn as mean ± standard deviation.
    """
    figure, (ax,) = _panels(1, 5)
    for method, accuracies in by_method.items():
        values = x[method] if isinstance(x, dict) else x
        ax.plot(values, _errors(accuracies), **style(method), label=method)
    if baseline is not None:
        ax.axhline(1 - baseline, **LOOKS["baseline"], lw=1, label="baseline")
    ax.set(xscale=xscale, xlabel=xlabel)
    if xscale == "log":
        _label_each(ax, x, kept)
    else:
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    bar = {"fmt": "none", "elinewidth": 1.5, "capsize": 4}
    for method, by_x in (seeds or {}).items():
        error = [_errors(np.mean(a)) for a in by_x.values()]
        spread = [np.std(a, ddof=1) for a in by_x.values()]
        ax.errorbar([*by_x], error, spread, **bar, ecolor=style(method)["color"])
    if seeds:
        ax.errorbar([], [], [], **bar, ecolor=DARK, label="mean ± std. dev. of several seeds")
    _accuracy_axis(ax, "y", ylabel)
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
def terms(W, shown, name, folder=None):
    """Terms σᵢ uᵢ vᵢᵀ of a matrix, and below each the sum of all terms up to it."""
    figure, axes = plt.subplots(2, len(shown), figsize=(8, 3.6))
    factors, top = svd.decompose(W), np.abs(W).max()
    U, s, Vt = factors
    for (above, below), i in zip(axes.T, shown, strict=True):
        term = s[i - 1] * np.outer(U[:, i - 1], Vt[i - 1])
        for ax, matrix in ((above, term), (below, svd.truncate(factors, i))):
            ax.imshow(matrix, "PuOr", vmin=-top, vmax=top)
            ax.axis("off")
        above.set_title(f"$σ_{{{i}}}$ = {s[i - 1]:.2f}")
        below.set_title(f"D = {i}: {svd.energy(s, i):.0%}")
    return _saved(figure, name, folder)


@_styled
def plane(panels, name, folder=None, labels=("first output", "second output")):
    """Points of the plane, and where a cut moves them: {title: (uncut (n, 2), cut (n, 2))}.

    Below the title stands the root of the mean squared distance.
    """
    figure, axes = _panels(len(panels), 3.6, sharex=True)
    for ax, (title, (uncut, cut)) in zip(axes, panels.items(), strict=True):
        ax.plot(*np.stack([uncut, cut]).transpose(2, 0, 1), c="0.8", lw=1, zorder=1)
        ax.plot(*uncut.T, "o", ms=6, c=DARK, mfc="none", label="as it should be")
        ax.plot(*cut.T, "D", ms=3, c=VERMILLION, label="after the cut")
        error = np.sqrt(np.mean(np.sum((uncut - cut) ** 2, axis=1)))
        ax.set(title=f"{title}\nerror {error:.2f}", aspect="equal", xlabel=labels[0])
    axes[0].set_ylabel(labels[1])
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
    """Histograms of a kernel's singular values against the Marchenko–Pastur law, on one axis.

    Panels are {title: (singular values (r,), standard deviation of the noise)}.
    """
    figure, axes = plt.subplots(len(panels), figsize=(8, 2.2 * len(panels)), sharex=True)
    bins = np.linspace(0, max(s.max() for s, _ in panels.values()), 150)
    for ax, (title, (s, std)) in zip(axes, panels.items(), strict=True):
        edge = svd.noise_edge(shape, std)
        sigma = np.linspace(edge / 500, edge, 500)
        beyond = s[s > edge]
        ax.hist(s, bins, density=True, color=SKY, label="singular values")
        ax.plot(sigma, svd.noise_density(sigma, shape, std), "k", lw=1.5, label="noise alone")
        ax.axvline(edge, color="k", ls=":", label="edge of the noise")
        # A rug: the bar of one value among a thousand would not be seen.
        rug = {"color": VERMILLION, "lw": 1.5, "transform": ax.get_xaxis_transform()}
        ax.vlines(beyond, 0, 0.4, **rug, label="beyond the edge")
        ax.set(title=f"{title}: edge at {edge:.2f}, {len(beyond)} beyond", ylabel="density")
    axes[-1].set_xlabel("singular value σ")
    return _saved(figure, name, folder, columns=4)


@_styled
def spectra(svds, edges, D, name, folder=None):
    """Sorted singular values, {layer: helpers.svd.SVD}, with rank D and {layer: edge of noise}."""
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
    ax.plot(ranks, measured, "o", c=BLUE, label="measured: $‖W − W_D‖$")
    ax.set(xlabel="D", ylabel="Frobenius norm", title="Error of one truncated matrix")
    return _saved(figure, name, folder)


@_styled
def shapes(networks, name, folder=None):
    """Networks drawn to scale: a bar is a layer's neurons, a band a matrix, its waist the rank.

    Networks are {title: (widths (layers + 1,), ranks (layers,), None of a whole matrix)}.
    """
    figure, axes = _panels(len(networks), 3.6)
    above = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
    for ax, (title, (widths, ranks)) in zip(axes, networks.items(), strict=True):
        for x, rank in enumerate(ranks):
            ends = widths[x], widths[x + 1]
            waist = sum(ends) / 2 if rank is None else rank
            half = np.array([ends[0], waist, ends[1]]) / 2
            ax.fill_between([x, x + 0.5, x + 1], -half, half, color=SKY, alpha=0.4, lw=0)
            if rank is not None:
                ax.annotate(rank, (x + 0.5, -rank / 2), **above | {"xytext": (0, -3), "va": "top"})
        bars = ax.bar(np.arange(len(widths)), widths, 0.16, -np.divide(widths, 2), color=BLUE)
        for bar, width in zip(bars, widths, strict=True):
            ax.annotate(width, (bar.get_center()[0], width / 2), **above)
        ax.set(title=title, xticks=[], yticks=[], ymargin=0.1, frame_on=False)
    return _saved(figure, name, folder)


@_styled
def misread(images, labels, read, name, folder=None):
    """The first ten digits that each network misreads, {network: its answers (n,)}, a row each."""
    figure, axes = plt.subplots(len(read), figsize=(8, 0.8 * len(read)))
    for ax, (network, answers) in zip(axes, read.items(), strict=True):
        wrong = np.flatnonzero(answers != labels)
        row = np.zeros((28, 10, 40))  # a digit, and its margins
        for place, i in enumerate(wrong[:10]):
            row[:, place, 6:34] = images[i].reshape(28, 28)
            said = f"{labels[i]}, not {answers[i]}"
            ax.text(40 * place + 20, -3, said, fontsize=8, ha="center")
        ax.imshow(row.reshape(28, 400), cmap="gray_r")
        ax.set(xticks=[], yticks=[], frame_on=False)
        label = f"{network}\n{len(wrong):,} of {len(labels):,}"
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    return _saved(figure, name, folder)


@_styled
def confusion(labels, read, name, folder=None):
    """The share of each digit that is read as each, in %, {network: its answers (n,)}."""
    figure, axes = _panels(len(read), 4.6)
    for ax, (network, answers) in zip(axes, read.items(), strict=True):
        counts = np.zeros((10, 10))
        np.add.at(counts, (labels, answers), 1)
        percent = 100 * counts / counts.sum(axis=1, keepdims=True)
        ax.imshow(percent, "Blues", vmin=0, vmax=100)
        for i, j in np.argwhere(percent >= 0.5):
            color = "white" if percent[i, j] > 50 else "black"
            ax.text(j, i, f"{percent[i, j]:.0f}", ha="center", va="center", c=color, fontsize=8)
        ax.set(title=network, xlabel="read as", xticks=range(10), yticks=range(10))
        ax.grid(visible=False)
    axes[0].set_ylabel("digit")
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
def deployed(worth, name, folder=None):
    """How many times better than the float32 baseline: a panel each for bytes, latency, throughput.

    Args:
        worth: {network: {"bytes_ratio", "latency_ratio", "throughput_ratio"}}, and to mark what
            to expect, "weights_ratio" of the bytes of the weights, and "adds_ratio".
    """
    panels = {"file size": "bytes", "latency": "latency", "throughput": "throughput"}
    figure, axes = _panels(3, 3.6, sharex=True)
    place = np.arange(len(worth))
    marks = [("weights", "bytes of the weights", _look(VERMILLION, "|"))]
    marks += [("adds", "multiply-adds", _look(DARK, "x"))]
    for ax, (title, key) in zip(axes, panels.items(), strict=True):
        values = [ratios[f"{key}_ratio"] for ratios in worth.values()]
        ax.barh(place, values, 0.5, color=SKY, alpha=0.5, label="measured")
        at = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
        for row, value in zip(place, values, strict=True):
            ax.text(0.98, row, f"{value:.3g}", **at)
        for mark, said, look in marks[: 1 if key == "bytes" else 2]:
            expected = [ratios[f"{mark}_ratio"] for ratios in worth.values()]
            ax.plot(expected, place, **look | {"linestyle": "", "ms": 13, "mew": 2}, label=said)
        ax.set(xscale="log", xlim=(0.7, 20_000), title=title)
        ax.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(place, worth)
    axes[0].invert_yaxis()
    axes[1].set_xlabel("times better than the float32 baseline")
    return _saved(figure, name, folder)


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

    `measured` is {method: accuracy} of the run at hand, `seeds` {method: accuracies (seeds,)}. A
    method may be in either.
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
        said = "mean ± std. dev. of several seeds (and how many)"
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
                ax.plot([], [], **_look(DARK, "o", "") | HOLLOW, label="hollow: one seed")
        sizes |= zip(by_rank, x, strict=True)
    for (source, points), marker in zip(published.items(), "x+12", strict=True):
        x, accuracy = np.transpose(points)
        ax.plot(x, 1 - accuracy, marker, ms=7, c="k", label=f"published: {source}")
    ax.axhline(1 - np.mean(baseline), **LOOKS["baseline"], lw=1, label="baseline")
    ax.set(xscale="log", xlabel="parameters, and the share of the baseline's")
    _accuracy_axis(ax, "y", "test accuracy")
    ticks = [5_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000]
    ax.set_xticks(ticks, [f"{tick:,}\n{tick / whole:.1%}" for tick in ticks])
    for D, x in sizes.items():
        ax.text(x, 1.01, f"D = {D}", transform=ax.get_xaxis_transform(), ha="center")
    return _saved(figure, name, folder, columns=2)


def _panels(columns, height, sharex=False):
    """A figure, and its axes in a row."""
    shared = {"sharex": sharex, "sharey": True, "squeeze": False}
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
    figure.set_layout_engine("none")  # all has its place: to show the figure takes less time
    plt.close(figure)
    return figure


def _label_each(ax, x, kept):
    """A tick at each x, with the share kept below it, but where labels would touch."""
    apart, last, ticks = (max(x) / min(x)) ** (1 / 12), 0, {}
    for value, share in zip(x, kept, strict=True):
        if value >= apart * last:
            ticks[value], last = f"{value:,}\n{share:.1%}", value
    ax.set_xticks(list(ticks), ticks.values())
    ax.set_xlim(ax.get_xlim())  # error bars, drawn later, would stretch a logarithmic axis


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
