"""The results of all runs: one table, one picture, the README's table.

`python -m helpers.lab.results` adds what the sweep has measured on whole MNIST, at the default
epochs, to figures/results.csv, and from that draws figures/results.png and writes the table in
README.md.
"""

import argparse
import csv
import sys

import numpy as np

from .. import PROJECT
from . import figures
from .files import write_whole

COLUMNS = ("notebook", "D", "seed", "dataset", "epochs", "method", "test_accuracy", "parameters")
RUN = COLUMNS[:6]  # what tells one row from another
# The few that matter first, then all.
FIRST = {
    "truncated": "truncated",
    "shared": "layer by layer, shared ranks",
    "fine_tuned": "fine-tuned",
    "fine_tuned_shared": "fine-tuned, shared ranks",
    "dynamic_ranks": "dynamic, shrinking ranks",
    "small_dense": "small dense network",
}
METHODS = FIRST | {
    "whitened": "whitened",
    "two_sided": "two-sided",
    "layer_by_layer": "layer by layer",
    "random_factors": "random factors",
    "random_factors_shared": "random factors, shared ranks",
    "truncated_adamw": "truncated, baseline by AdamW",
    "from_scratch": "from scratch",
}
RANKS = {
    "dynamic": "equal",
    "dynamic_tapered": "falling from layer to layer by 0.7",
    "dynamic_tolerance": "by a tolerance on the energy",
    "dynamic_no_training_ranks": "shared before training",
    "dynamic_ranks": "shrinking",
}
# What a claim rests on: the first less the second, seed by seed.
PAIRS = {
    ("fine_tuned_shared", "small_dense"): "fine-tuned, shared ranks − small dense network",
    ("fine_tuned_shared", "random_factors_shared"): "… − random factors, shared ranks",
    ("fine_tuned_shared", "fine_tuned"): "… − fine-tuned",
    ("dynamic_ranks", "fine_tuned_shared"): "dynamic, shrinking ranks − fine-tuned, shared ranks",
    ("from_scratch", "small_dense"): "from scratch − small dense network",
}
DERIVATIVES = {"straight_through": "straight-through", "tangent": "tangent", "exact": "exact"}
BASELINES = {
    "baseline": "Baseline",
    "baseline_longer": "trained on for as long as fine-tuning takes",
    "baseline_adamw": "trained by AdamW",
}
DLRT = 4 * 784 * 784 + 784 * 10 + 4 * 784 + 10  # parameters of its dense network, 784×5-10
# (parameters, test accuracy).
PUBLISHED = {
    # The best of the public solutions of these three problems, D = 20, a run each: truncated
    # (benseddikismail/network-compression-SVD), straight-through (sushantkotwal96/
    # Network-Compression-in-Deep-Neural-Networks), differentiated SVD (nileshrathi99/
    # network-compression), fine-tuned (the first again).
    "public solutions": [
        *[(215_370, 0.9386), (215_370, 0.9743), (215_370, 0.9794), (215_370, 0.9799)],
    ],
    # Schotthöfer et al., NeurIPS 2022: the authors' means, CSMMLab/DLRT-Net, illustration/; where
    # they give a range of sizes, its middle.
    "DLRT, means": [
        *[(0.054 * DLRT, 0.9740), (0.067 * DLRT, 0.9781), (0.091 * DLRT, 0.9795)],
        *[(0.115 * DLRT, 0.9812), (0.160 * DLRT, 0.9849), (0.214 * DLRT, 0.9858)],
        *[(0.319 * DLRT, 0.9859), (0.470 * DLRT, 0.9861)],
    ],
    # Schotthöfer et al., same place: LeNet-5, convolutional.
    "DLRT, LeNet-5": [(13_100, 0.9812), (30_300, 0.9821)],
    # Weights left, without biases: structured Bayesian pruning of 784-500-300-10 (Neklyudov et
    # al., NeurIPS 2017), SSL (Wen et al., NeurIPS 2016), Han et al., NeurIPS 2015.
    "pruning": [(48_550, 0.9845), (90_000, 0.9851), (22_000, 0.9841)],
}
EPOCHS = 15  # of the notebooks by default; other runs are for whoever made them
SIZED = ("truncated", "fine_tuned", "dynamic")  # of the same size at the same D
RUNS = PROJECT / ".runs"  # what the sweep writes
TABLE = PROJECT / "figures" / "results.csv"
README = PROJECT / "README.md"
START, END = "<!-- written by python -m helpers.lab.results -->\n", "<!-- end -->"


def rows(measured):
    """A run's results as rows of the table: what every method reached at the run's D.

    >>> rows({"D": 5, "cut": {"5": {"test_accuracy": 0.5}, "full": {"test_accuracy": 1}}})
    [{'D': 5, 'method': 'cut', 'test_accuracy': 0.5}]
    """
    run = {key: value for key, value in measured.items() if key in COLUMNS}
    found = []
    for method, row in measured.items():
        if isinstance(row, dict):
            row = row.get(str(measured["D"]), row)
        if isinstance(row, dict) and "test_accuracy" in row:
            found.append(run | {"method": method} | {k: row[k] for k in COLUMNS if k in row})
    return found


def read(path):
    """The rows of a table, numbers as numbers; none if there is no table.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return []
    kinds = {"D": int, "seed": int, "epochs": int, "test_accuracy": float, "parameters": int}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = [{key: row[key] for key in COLUMNS if row[key]} for row in csv.DictReader(file)]
        return [{k: kinds.get(k, str)(value) for k, value in row.items()} for row in found]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path.name} is not a table of results, or damaged ({error}).") from error


def write(path, table):
    """Write the rows as CSV, sorted, whole."""
    with write_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(table, key=_run))


def merge(old, new):
    """All rows of both tables; where both have a row of the same run and method, the new one."""
    return list({_run(row): row for row in [*old, *new]}.values())


def _run(row):
    return tuple(row[key] for key in RUN)


def by_method(table):
    """{method: {D: (accuracies (seeds,), parameters)}} of a table of one data set.

    A method may stand in the rows of several notebooks: a seed counts once.
    """
    return {
        method: {D: _columns(by_rank[D].values()) for D in sorted(by_rank)}
        for method, by_rank in _by_seed(table).items()
    }


def _by_seed(table):
    """{method: {D: {seed: (accuracy, parameters)}}}.

    Where several notebooks have a row of a seed, that of the last counts; a notebook's comes before
    that of tests/measure.py, which makes the same networks.
    """
    size = {
        row["D"]: row["parameters"]
        for row in table
        if row["method"] in SIZED and "parameters" in row
    }
    found = {}
    for row in sorted(table, key=lambda row: (row["notebook"] != "measure", _run(row))):
        by_seed = found.setdefault(row["method"], {}).setdefault(row["D"], {})
        by_seed[row["seed"]] = row["test_accuracy"], row.get("parameters", size.get(row["D"]))
    return found


def differences(table, first, second):
    """{D: accuracies of one method less those of another (seeds,)}, of the seeds that have both.

    A D with fewer than two such seeds is left out.
    """
    by_seed = _by_seed(table)
    ours, theirs = by_seed.get(first, {}), by_seed.get(second, {})
    found = {}
    for D in sorted(ours.keys() & theirs.keys()):
        both = sorted(ours[D].keys() & theirs[D].keys())
        if len(both) > 1:
            found[D] = np.array([ours[D][seed][0] - theirs[D][seed][0] for seed in both])
    return found


def _columns(pairs):
    accuracies, sizes = zip(*pairs, strict=True)
    return np.array(accuracies), float(np.mean(sizes))


def picture(table, folder):
    """Draw the table of one data set beside what is published: results.png in the folder."""
    measured = by_method(table)
    curves = {label: measured[method] for method, label in FIRST.items() if method in measured}
    whole, baseline = _baseline(measured)
    return figures.accuracy_by_size(curves, whole, baseline, PUBLISHED, "results", folder)


def _baseline(measured, method="baseline"):
    """Its parameters, and its accuracies (seeds,): those of the D with the most seeds of all."""

    def seeds(D):
        return [len(measured[name].get(D, [[]])[0]) for name in (method, "baseline")]

    accuracies, parameters = measured[method][max(measured[method], key=seeds)]
    return parameters, accuracies


def markdown(table):
    """The README's tables: mean ± standard deviation over seeds, in percent."""
    measured = by_method(table)
    whole, _ = _baseline(measured)
    baselines = [
        f"{label}: {_cell(_baseline(measured, method)[1])}"
        for method, label in BASELINES.items()
        if method in measured
    ]
    lines = _table(measured, FIRST, whole)
    lines.append(
        "\nTest accuracy in %, mean ± standard deviation over seeds, and how many, if more than"
    )
    lines.append(f"one. {'; '.join(baselines)}.\n\nAll that was measured:\n")
    lines += _table(measured, {m: label for m, label in METHODS.items() if m not in FIRST}, whole)
    lines.append("\n| published | test accuracy in %, with so many parameters |\n| --- | --- |")
    for name, points in PUBLISHED.items():
        found = ", ".join(f"{100 * accuracy:.2f} with {size:,.0f}" for size, accuracy in points)
        lines.append(f"| {name} | {found} |")
    lines += _pairs(table)
    for title, labels in (
        ("Dynamic networks, by how their ranks are chosen:", RANKS),
        ("The derivatives of notebook 3, after a fifth of the baseline's epochs:", DERIVATIVES),
    ):
        if rows := _table(measured, labels, whole):
            lines += [f"\n{title}\n", *rows]
    return "\n".join(lines) + "\n"


def _table(measured, labels, whole):
    """A line for each D, a column for each method that is both labelled and measured."""
    methods = [method for method in labels if method in measured]
    if not methods:
        return []
    lines = ["| D | kept | " + " | ".join(labels[method] for method in methods) + " |"]
    lines.append("| --- " * (2 + len(methods)) + "|")
    for D in sorted({D for method in methods for D in measured[method]}):
        cells = [_cell(measured[m][D][0]) if D in measured[m] else "" for m in methods]
        size = max(measured[m][D][1] for m in methods if D in measured[m])
        lines.append(f"| {D} | {size / whole:.1%} | " + " | ".join(cells) + " |")
    return lines


def _pairs(table):
    """A line for each pair of methods, a column for each D: mean difference ± standard error."""
    found = {label: differences(table, *pair) for pair, label in PAIRS.items()}
    ranks = sorted({D for by_rank in found.values() for D in by_rank})
    if not ranks:
        return []
    lines = ["\nDifferences in points, seed by seed: mean ± standard error, and how many seeds:\n"]
    lines.append("| | " + " | ".join(f"D = {D}" for D in ranks) + " |")
    lines.append("| --- " * (1 + len(ranks)) + "|")
    for label, by_rank in found.items():
        cells = [_difference(by_rank[D]) if D in by_rank else "" for D in ranks]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _difference(points):
    error = np.std(points, ddof=1) / np.sqrt(len(points))
    return f"{100 * np.mean(points):+.2f} ± {100 * error:.2f} ({len(points)})"


def _cell(accuracies):
    mean = f"{100 * np.mean(accuracies):.2f}"
    if len(accuracies) == 1:
        return mean
    return f"{mean} ± {100 * np.std(accuracies, ddof=1):.2f} ({len(accuracies)})"


def _is_whole(row):
    return row["dataset"] == "mnist" and row["epochs"] == EPOCHS


def main(arguments=None):
    argparse.ArgumentParser(prog="python -m helpers.lab.results", description=__doc__).parse_args(
        arguments
    )
    try:
        new = read(RUNS / "results.csv") + read(RUNS / "measure.csv")
        table = merge(read(TABLE), [row for row in new if _is_whole(row)])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if not table:
        print("There are no results yet: run python -m helpers first.", file=sys.stderr)
        return 2
    before, start, rest = README.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        print(f"{README.name} has no place for a table: {START} … {END}", file=sys.stderr)
        return 2
    write(TABLE, table)
    picture(table, TABLE.parent)
    with write_whole(README) as temporary:
        temporary.write_text(before + START + markdown(table) + END + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
