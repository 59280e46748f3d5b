"""One style, one function a picture.

Each function draws, saves the picture as `name`.png under figures/ (or $SVD_FIGURES), and returns
it, so that a notebook cell that ends with the call shows it.
"""

import itertools
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from . import svd
from .files import PROJECT, write_whole

STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "legend.frameon": False,
}
PLAIN, WHITENED, FINE_TUNED = "tab:blue", "tab:orange", "tab:green"
BASELINE, NOISE = "0.35", "0.65"
DERIVATIVE_COLORS = {
    "tangent": FINE_TUNED,
    "straight_through": "tab:red",
    "straight_through, slow": "tab:pink",
    "exact": "tab:purple",
}
METHOD_COLORS = {
    "truncated": PLAIN,
    "whitened": WHITENED,
    "whitened, shared ranks": "tab:brown",
    "fine-tuned": FINE_TUNED,
    "fine-tuned, shared ranks": "tab:olive",
    "fine-tuned, tapered ranks": "tab:cyan",
    "dynamic": "tab:purple",
}
ACCURACIES = (0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99)  # ticks
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1}


def digits(images, labels, name):
    """One image (784,) per label, in a row."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(images), figsize=(9, 1.2))
        for ax, image, label in zip(axes, images, labels, strict=True):
            ax.imshow(np.reshape(image, (28, 28)), cmap="gray_r")
            ax.set_title(label)
            ax.axis("off")
        return _finish(figure, name)


def learning_curve(history, name):
    """Accuracy on training and validation data after each epoch, from `fit`'s history."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6, 3.4))
        epochs = np.arange(1, len(history["accuracy"]) + 1)
        training, validation = (1 - np.array(history[k]) for k in ("accuracy", "val_accuracy"))
        ax.plot(epochs, training, "o--", ms=3, c=NOISE, label="training, with dropout")
        ax.plot(epochs, validation, "o-", ms=4, c=PLAIN, label="validation")
        ax.set(xlabel="epoch", title="Learning curve of the baseline")
        ax.xaxis.get_major_locator().set_params(integer=True)
        _errors_as_accuracies(ax, "accuracy")
        ax.legend(loc="lower right")
        return _finish(figure, name)


def noise_and_signal(before, after, shape, std, remaining, name):
    """Histograms of one kernel's singular values against the Marchenko–Pastur law.

    Args:
        before, after: singular values (r,) of the kernel before and after training.
        shape: (n_in, n_out) of the kernel.
        std: standard deviation of its entries before training.
        remaining: the factor by which weight decay has shrunk them since.
        name: the picture's file name, without ending.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
        for ax, s, scale, when in zip(
            axes, (before, after), (std, std * remaining), ("Before", "After"), strict=True
        ):
            edge = svd.noise_edge(shape, scale)
            sigma = np.linspace(edge / 500, edge, 500)
            ax.hist(s, bins=80, density=True, color=PLAIN, alpha=0.6, label="singular values")
            ax.plot(sigma, svd.noise_density(sigma, shape, scale), "k", lw=1.5, label="noise alone")
            ax.axvline(edge, color="k", ls=":", label=f"edge of the noise, {edge:.2f}")
            ax.set(xlabel="singular value σ", title=f"{when} training")
            ax.legend()
        axes[0].set_ylabel("density")
        return _finish(figure, name)


def spectra(svds, edges, D, name):
    """Sorted singular values of each layer, with rank D and the edge of the shrunken noise.

    Args:
        svds: {layer name: helpers.svd.SVD}.
        edges: {layer name: edge}.
        D: the rank to mark.
        name: the picture's file name, without ending.
    """
    with plt.rc_context(STYLE):
        columns = len(svds)
        figure, axes = plt.subplots(1, columns, figsize=(11, 3.2), sharey=True, squeeze=False)
        for ax, (layer, factors) in zip(axes[0], svds.items(), strict=True):
            index = np.arange(1, len(factors.s) + 1)
            ax.loglog(index, factors.s, c=PLAIN)
            ax.axhline(edges[layer], c="k", ls=":", lw=1.5, label="edge of the noise")
            ax.axvline(D, c=WHITENED, ls="--", lw=1, label=f"D = {D}")
            ax.set(title=layer, xlabel="index i")
        top = max(factors.s[0] for factors in svds.values())
        axes[0, 0].set(ylabel="singular value $σ_i$", ylim=(top / 500, 1.5 * top))
        axes[0, 0].legend(loc="lower left")
        return _finish(figure, name)


def error_by_rank(ranks, measured, s, name):
    """Measured ‖W − W_D‖ as dots on the curve that Eckart and Young predict from s alone."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6, 3.4))
        tail = np.sqrt(np.cumsum(np.square(s[::-1]))[::-1])
        ax.plot(np.arange(1, len(s)), tail[1:], c=BASELINE, label="predicted: √(Σ $σ_i^2$, i > D)")
        ax.plot(ranks, measured, "o", c=PLAIN, label="measured: ‖W − $W_D$‖")
        ax.set(xlabel="D", ylabel="Frobenius norm", title="Error of one truncated matrix")
        ax.legend()
        return _finish(figure, name)


def accuracy_by_rank(ranks, curves, kept, baseline, name):
    """Accuracy against D, and against the fraction of parameters kept.

    Args:
        ranks: the values of D.
        curves: {method: accuracy at each D}.
        kept: fraction of the baseline's parameters kept at each D.
        baseline: its accuracy.
        name: the picture's file name, without ending.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
        for ax, x in zip(axes, (ranks, kept), strict=True):
            for (method, accuracy), color in zip(curves.items(), (PLAIN, WHITENED), strict=True):
                ax.semilogx(x, accuracy, "o-", ms=5, c=color, label=method)
            ax.axhline(baseline, c=BASELINE, ls="--", lw=1, label="baseline")
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes[0].set(xlabel="D, singular values kept per layer", ylabel="test accuracy")
        axes[0].xaxis.set_major_formatter(ScalarFormatter())
        axes[0].set_xticks([10, 20, 50, 100, 200, 1000])
        axes[1].set_xlabel("parameters kept")
        axes[1].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes[1].set_xticks([0.02, 0.05, 0.1, 0.2, 0.5, 1])
        for ax in axes:
            ax.minorticks_off()
        axes[0].legend(loc="lower right")
        return _finish(figure, name)


def loss_by_layer(losses, D, name):
    """Accuracy lost when one layer alone is truncated: {method: {layer name: share lost}}."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6.5, 3.4))
        width = 0.8 / len(losses)
        for k, (method, color) in enumerate(zip(losses, (PLAIN, WHITENED), strict=True)):
            layers = list(losses[method])
            x = np.arange(len(layers)) + (k - (len(losses) - 1) / 2) * width
            ax.bar(x, [100 * losses[method][n] for n in layers], width, color=color, label=method)
        ax.axhline(0, c=BASELINE, lw=1)
        ax.set_xticks(np.arange(len(layers)), layers)
        ax.set(ylabel="validation accuracy lost\n(percentage points)")
        ax.set_title(f"One layer alone truncated to D = {D}")
        ax.grid(axis="x", visible=False)
        ax.legend()
        return _finish(figure, name)


def shared_budget(by_rule, layers, ranks, curves, baseline, name):
    """How rules share one budget of parameters among the layers, and the accuracy that keeps.

    Args:
        by_rule: {rule: list of one rank a layer}.
        layers: their names.
        ranks: budgets, as the D of equal ranks.
        curves: {"method, rule": accuracy at each budget}, two rules a method.
        baseline: its accuracy.
        name: the picture's file name, without ending.
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8))
        width, x = 0.8 / len(by_rule), np.arange(len(layers))
        colors = (NOISE, FINE_TUNED, "tab:purple")
        for k, ((rule, shares), color) in enumerate(zip(by_rule.items(), colors, strict=True)):
            left.bar(
                x + (k - (len(by_rule) - 1) / 2) * width, shares, width, color=color, label=rule
            )
        left.set_xticks(x, layers)
        left.set(ylabel="rank", title="Ranks of one budget")
        left.grid(axis="x", visible=False)
        left.legend()
        styles = itertools.product((PLAIN, WHITENED), ("o--", "o-"))
        for (label, accuracy), (color, style) in zip(curves.items(), styles, strict=True):
            right.semilogx(ranks, 1 - np.array(accuracy), style, ms=5, c=color, label=label)
        _accuracy_by_error(right, baseline)
        right.set(xlabel="budget, as D in every layer")
        right.set_xticks(ranks, ranks)
        right.legend(loc="lower right")
        return _finish(figure, name)


def fine_tuning(curves, baseline, name):
    """Validation accuracy after each epoch: {start: list}, and the baseline's level."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7.5, 3.8))
        for start, accuracy in curves.items():
            ax.plot(np.arange(1, len(accuracy) + 1), accuracy, "o-", ms=4, label=start)
        _validation_by_epoch(ax, baseline)
        return _finish(figure, name)


def factors(pairs, name):
    """Singular values of each layer's product: {layer name: (before (D,), after (D,))}."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(pairs), figsize=(11, 3), sharey=True, squeeze=False)
        for ax, (layer, (before, after)) in zip(axes[0], pairs.items(), strict=True):
            index = np.arange(1, len(before) + 1)
            ax.plot(index, before, "o", ms=4, mfc="none", c=BASELINE, label="before")
            ax.plot(index, after, "o", ms=4, c=FINE_TUNED, label="after")
            ax.set(title=layer, xlabel="index i")
            ax.xaxis.get_major_locator().set_params(integer=True)
        axes[0, 0].set(ylabel="singular value $σ_i$", ylim=(0, None))
        axes[0, 0].legend()
        return _finish(figure, name)


def accuracy_by_parameters(kept, curves, baseline, name):
    """Test accuracy against the fraction of parameters kept: {method: list}, one per fraction."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7, 3.8))
        colors = (PLAIN, WHITENED, FINE_TUNED, METHOD_COLORS["fine-tuned, tapered ranks"])
        for (method, accuracy), color in zip(curves.items(), colors, strict=True):
            ax.semilogx(kept, 1 - np.array(accuracy), "o-", ms=5, c=color, label=method)
        _accuracy_by_error(ax, baseline)
        ax.set(xlabel="parameters kept")
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        ax.set_xticks(kept)
        ax.legend(loc="lower right")
        return _finish(figure, name)


def deployed(worth, limit, name):
    """Ratios to the float32 baseline as dots, a row for each of bytes, latency and throughput.

    Args:
        worth: {network: {"bytes_ratio", "latency_ratio", "throughput_ratio"}}.
        limit: the ratio of multiply-adds.
        name: the picture's file name, without ending.
    """
    rows = {"file size": "bytes_ratio", "latency": "latency_ratio"}
    rows["throughput"] = "throughput_ratio"
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(8, 2.8))
        colors = (BASELINE, PLAIN, FINE_TUNED)
        for (network, ratios), color in zip(worth.items(), colors, strict=True):
            values = [ratios[key] for key in rows.values()]
            ax.plot(values, np.arange(len(rows)), "o", ms=8, c=color, label=network)
            for row, value in enumerate(values):
                ax.text(value, row - 0.22, f"{value:.1f}", ha="center", bbox=BOX)
        ax.axvline(limit, c=NOISE, ls="--", lw=1.5, label="ratio of multiply-adds")
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.set_xticks([1, 2, 5, 10, 20, 50, 100])
        ax.minorticks_off()
        ax.set_yticks(np.arange(len(rows)), rows)
        ax.set(ylim=(len(rows) - 0.5, -0.6), xlabel="times better than the float32 baseline")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return _finish(figure, name)


def tangent_space(name):
    """The cone of symmetric rank-1 matrices [[a, b], [b, c]], ac = b², and a tangent plane."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(6, 4.6))
        ax = figure.add_subplot(projection="3d", computed_zorder=False)
        r, angle = np.meshgrid(np.linspace(0, 2, 20), np.linspace(0, 2 * np.pi, 60))
        # u uᵀ with u = √r (cos, sin); twice as far round b, so that the cone is round.
        cone = r * (1 + np.cos(angle)) / 2, r * np.sin(angle) / 2, r * (1 - np.cos(angle)) / 2
        ax.plot_surface(*cone, color=PLAIN, alpha=0.25, linewidth=0, zorder=0)
        W = np.array([1.0, 0, 0])  # a, b, c: the tangent plane there is c = 0
        a, b = np.meshgrid([0.3, 1.9], [-0.8, 0.8])
        ax.plot_surface(a, b, np.zeros_like(a), color=FINE_TUNED, alpha=0.2, zorder=1)
        G, projection = np.array([0.5, 0.45, 0.9]), np.array([0.5, 0.45, 0])
        ax.plot(*np.stack([W + G, W + projection], 1), ":", c=NOISE, zorder=2)
        ax.quiver(*W, *G, color=BASELINE, lw=2, arrow_length_ratio=0.12, zorder=3)
        ax.quiver(*W, *projection, color=FINE_TUNED, lw=2, arrow_length_ratio=0.15, zorder=3)
        ax.scatter(*W, c="k", s=25, zorder=4)
        ax.text(*(W + G), " G", color=BASELINE)
        ax.text(*(W + projection), " its projection", color=FINE_TUNED)
        ax.text(*(W - [0, 0.1, 0.15]), "f(W)", ha="right")
        ax.set(xlabel="a", ylabel="b", zlabel="c", xlim=(0, 2), ylim=(-1, 1), zlim=(0, 2))
        ax.set(xticks=[0, 1, 2], yticks=[-1, 0, 1], zticks=[0, 1, 2])
        ax.set_box_aspect((1, 1, 1), zoom=0.88)
        ax.view_init(elev=22, azim=-50)
        return _finish(figure, name)


def step_times(times, name):
    """Bars of seconds a training step: {network: seconds}, the first being the reference."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7, 2.4))
        reference = next(iter(times.values()))
        ratios = [seconds / reference for seconds in times.values()]
        colors = [DERIVATIVE_COLORS.get(network, BASELINE) for network in times]
        bars = ax.barh(list(times), ratios, color=colors, height=0.6)
        ax.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=3)
        ax.axvline(1, c=BASELINE, ls="--", lw=1)
        ax.set(xlabel="time of a training step, dense = 1")
        ax.margins(x=0.1)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        return _finish(figure, name)


def singular_values(spectra, D, name):
    """Singular values of one layer over training: {derivative: list an epoch of s (r,)}."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(spectra), figsize=(10, 3.4), sharey=True, squeeze=False)
        for ax, (derivative, history) in zip(axes[0], spectra.items(), strict=True):
            s = np.array(history)[:, : 2 * D]
            ax.plot(s[:, D:], c=NOISE, lw=0.8)
            ax.plot(s[:, :D], c=DERIVATIVE_COLORS[derivative], lw=0.8)
            ax.plot(s[:, D - 1], c="k", lw=2, label=f"$σ_{{{D}}}$, the last one kept")
            if s.shape[1] > D:
                ax.plot(s[:, D], "k:", lw=2, label=f"$σ_{{{D + 1}}}$, the first one dropped")
            ax.set(title=derivative, xlabel="epoch")
            ax.xaxis.get_major_locator().set_params(integer=True)
        axes[0, 0].set(ylabel="singular values", ylim=(0, None))
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return _finish(figure, name)


def gaps(gaps, name):
    """Relative gap of each layer by epoch: {derivative: {layer: [one list an epoch per seed]}}."""
    layers = list(next(iter(gaps.values())))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(layers), figsize=(11, 3), sharey=True, squeeze=False)
        for ax, layer in zip(axes[0], layers, strict=True):
            for derivative, by_layer in gaps.items():
                for k, curve in enumerate(by_layer[layer]):
                    label = derivative if k == 0 else None
                    ax.plot(curve, "o-", ms=3, lw=1, c=DERIVATIVE_COLORS[derivative], label=label)
            ax.set(title=layer, xlabel="epoch")
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes[0, 0].set(ylabel="gap, relative to $σ_D$", ylim=(0, None))
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return _finish(figure, name)


def dynamic_curves(curves, baseline, name):
    """Validation accuracy by epoch, {derivative: [(by exact SVD, by tracked factors) per seed]}."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7.5, 3.8))
        for derivative, pairs in curves.items():
            color = DERIVATIVE_COLORS[derivative]
            for k, (exact, tracked) in enumerate(pairs):
                epochs = np.arange(1, len(exact) + 1)
                ax.plot(epochs, exact, "o-", ms=4, c=color, label=derivative if k == 0 else None)
                ax.plot(epochs, tracked, ":", c=color)
        ax.plot([], [], "k:", label="with tracked factors")
        _validation_by_epoch(ax, baseline)
        return _finish(figure, name)


def comparison(accuracies, baseline, name):
    """Test accuracy of each method as dots, one a seed: {method: list}."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7.5, 3.6))
        for row, values in enumerate(accuracies.values()):
            ax.plot(values, [row] * len(values), "o", ms=7, c=PLAIN, alpha=0.6)
            place = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "bbox": BOX}
            ax.annotate(f"{np.mean(values):.2%}", (max(values), row), **place)
        ax.axvline(baseline, c=BASELINE, ls="--", lw=1, label=f"baseline {baseline:.2%}")
        ax.set_yticks(np.arange(len(accuracies)), accuracies)
        ax.set(ylim=(len(accuracies) - 0.5, -0.7), xlabel="test accuracy")
        ax.margins(x=0.12)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        ax.legend(loc="lower left")
        return _finish(figure, name)


def accuracy_by_kept(curves, whole, baseline, published, name):
    """Mean test accuracy against the parameters kept, with its spread over seeds.

    Args:
        curves: {method, one of METHOD_COLORS: {D: (accuracies (seeds,), parameters)}}.
        whole: the baseline's parameters.
        baseline: its accuracies (seeds,).
        published: {source: [(fraction kept, accuracy), …]}.
        name: the picture's file name, without ending.
    """
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(8.5, 5))
        kept = {}
        for method, by_rank in curves.items():
            kept |= {D: parameters / whole for D, (_, parameters) in by_rank.items()}
            x = [parameters / whole for _, parameters in by_rank.values()]
            error = [1 - np.mean(accuracies) for accuracies, _ in by_rank.values()]
            spread = [np.std(a, ddof=1) if len(a) > 1 else 0 for a, _ in by_rank.values()]
            ax.errorbar(
                x, error, spread, fmt="o-", ms=4, c=METHOD_COLORS[method], capsize=3, label=method
            )
        for (source, points), marker in zip(published.items(), "xD", strict=False):
            x, accuracy = np.transpose(points)
            ax.plot(x, 1 - accuracy, marker, ms=5, mfc="none", c="k", label=f"published: {source}")
        _accuracy_by_error(ax, np.mean(baseline))
        ax.set(xscale="log", xlabel="parameters kept")
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.set_xticks([0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
        ax.minorticks_off()
        for D, x in kept.items():
            ax.annotate(f"D = {D}", (x, 1), xycoords=("data", "axes fraction"), ha="center")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return _finish(figure, name)


def _accuracy_by_error(ax, baseline):
    ax.axhline(1 - baseline, c=BASELINE, ls="--", lw=1, label="baseline")
    _errors_as_accuracies(ax, "test accuracy")


def _errors_as_accuracies(ax, label):
    """Errors on a logarithmic axis, written as accuracies: near 100 % is where things differ."""
    ax.set(yscale="log", ylabel=label)
    ax.set_yticks(1 - np.array(ACCURACIES), [f"{100 * a:g} %" for a in ACCURACIES])
    ax.minorticks_off()
    ax.invert_yaxis()


def _validation_by_epoch(ax, baseline):
    ax.axhline(baseline, c=BASELINE, ls="--", lw=1, label="baseline")
    ax.set(xlabel="epoch", ylabel="validation accuracy")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _finish(figure, name):
    folder = Path(os.environ.get("SVD_FIGURES") or PROJECT / "figures")
    with write_whole(folder / f"{name}.png") as temporary:
        # No software version in the file: the same picture is the same bytes.
        figure.savefig(temporary, dpi=150, metadata={"Software": None})
    plt.close(figure)
    return figure
