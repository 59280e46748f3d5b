"""One style, one function a picture.

Each function draws, saves the picture as `name`.png under figures/ (or $SVD_FIGURES), and returns
it, so that a notebook cell that ends with the call shows it.
"""

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
        ax.plot(epochs, history["accuracy"], "o--", ms=3, c=NOISE, label="training, with dropout")
        ax.plot(epochs, history["val_accuracy"], "o-", ms=4, c=PLAIN, label="validation")
        ax.set(xlabel="epoch", ylabel="accuracy", title="Learning curve of the baseline")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
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


def fine_tuning(curves, baseline, name):
    """Validation accuracy after each epoch: {start: list}, and the baseline's level."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7.5, 3.8))
        for start, accuracy in curves.items():
            ax.plot(np.arange(1, len(accuracy) + 1), accuracy, "o-", ms=4, label=start)
        ax.axhline(baseline, c=BASELINE, ls="--", lw=1, label="baseline")
        ax.set(xlabel="epoch", ylabel="validation accuracy")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        ax.legend(loc="lower right", ncols=2)
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
        colors = (PLAIN, WHITENED, FINE_TUNED)
        for (method, accuracy), color in zip(curves.items(), colors, strict=True):
            ax.semilogx(kept, accuracy, "o-", ms=5, c=color, label=method)
        ax.axhline(baseline, c=BASELINE, ls="--", lw=1, label="baseline")
        ax.set(xlabel="parameters kept", ylabel="test accuracy")
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        ax.set_xticks(kept)
        ax.minorticks_off()
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
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


def _finish(figure, name):
    folder = Path(os.environ.get("SVD_FIGURES") or PROJECT / "figures")
    with write_whole(folder / f"{name}.png") as temporary:
        # No software version in the file: the same picture is the same bytes.
        figure.savefig(temporary, dpi=150, metadata={"Software": None})
    plt.close(figure)
    return figure
