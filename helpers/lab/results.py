"""The results of all runs: one table, one picture, and the tables of two READMEs.

`python -m helpers.lab.results` adds the runs on whole MNIST at the default epochs to
figures/results.csv. From that table it draws figures/results.png, and writes figures/README.md
and the small table in README.md.
"""

import argparse
import sys

import numpy as np
import pandas as pd

from .. import PROJECT
from . import RUNS, figures
from .files import write_text, write_whole

TYPES = {"notebook": str, "D": int, "seed": int, "dataset": str, "epochs": int, "method": str}
RUN = [*TYPES]  # these columns tell one row from another
TYPES |= {"test_accuracy": float, "parameters": "Int64"}  # not every row has its parameters
FIRST = {
    "truncated": "plain",
    "shared": "layer by layer, shared ranks",
    "cut": "neurons and ranks",
    "fine_tuned_shared": "fine-tuned, shared ranks",
    "fine_tuned_cut": "fine-tuned, neurons and ranks",
    "dynamic_ranks": "dynamic, shrinking ranks",
    "small_dense": "small dense network",
}
SMALL = {m: FIRST[m] for m in ("truncated", "cut", "fine_tuned_cut", "small_dense")}  # README's
OTHERS = {
    "whitened": "whitened",
    "two_sided": "two-sided",
    "layer_by_layer": "layer by layer",
    "fine_tuned": "fine-tuned",
    "random_factors": "random factors",
    "random_factors_shared": "random factors, shared ranks",
    "truncated_adamw": "plain, baseline by AdamW",
    "dynamic": "dynamic",
}
CONTROLS = {
    "fine_tuned_cut_longer": "fine-tuned as long as the small dense network",
    "cut_shape_anew": "neurons and ranks, random weights",
    "cut_neurons_only": "neurons alone",
    "interpolative": "interpolative decomposition, equal widths",
    "neurons_by_norm": "neurons by norm, equal widths",
    "random_neurons": "random neurons, equal widths",
}
DERIVATIVES = {
    "biases_and_output": "biases and output alone",
    "straight_through": "straight-through",
    "tangent": "tangent",
    "exact": "exact",
}
CALLED = FIRST | OTHERS | CONTROLS | DERIVATIVES
PAIRS = [  # claims rest on these differences: the first less the second, seed by seed
    ("cut", "shared"),
    ("fine_tuned_cut", "small_dense"),
    ("fine_tuned_cut_longer", "cut_shape_anew"),
    ("fine_tuned_shared", "small_dense"),
    ("fine_tuned_shared", "random_factors_shared"),
    ("fine_tuned_shared", "fine_tuned"),
    ("dynamic_ranks", "fine_tuned_shared"),
]
BASELINES = {
    "baseline": "Baseline",
    "baseline_longer": "trained on for as many epochs as fine-tuning",
    "baseline_adamw": "trained by AdamW",
}
EPOCHS = 15  # the notebooks' default; the table has no other runs
SIZED = "truncated", "fine_tuned", "dynamic"  # at the same D, these have the same size
TABLE = PROJECT / "figures" / "results.csv"
PUBLISHED = PROJECT / "figures" / "published.csv"
PICTURES = PROJECT / "figures" / "pictures.csv"
README = PROJECT / "README.md"
START, END = "<!-- written by python -m helpers.lab.results -->\n", "<!-- end -->"
PAGE = """# Tables and pictures

`python -m helpers.lab.results` writes this page from [results.csv](results.csv), which has a row
for each run and method, and from [published.csv](published.csv). Rows whose notebook is `measure`
come from `python -m tests.measuring.networks`, which makes the same networks and more controls.

![Test accuracy against parameters, beside published results](results.png)

Tables show test accuracy in %: mean ± standard deviation over seeds, and the number of seeds if
there are several.
"""


def rows(measured):
    """A run's results as rows of the table, one for each method at the run's D.

    Raises:
        KeyError, TypeError, ValueError: these are not the results of a run.

    >>> run = {"notebook": "01", "D": 5, "seed": 0, "dataset": "mnist", "epochs": 15}
    >>> cut = {"5": {"test_accuracy": 0.5}, "full": {"test_accuracy": 1}}
    >>> rows(run | {"cut": cut})[["D", "method", "test_accuracy"]].to_numpy().tolist()
    [[5, 'cut', 0.5]]
    """
    run = {key: measured[key] for key in RUN if key != "method"}
    found = []
    for method, row in measured.items():
        if isinstance(row, dict):
            row = row.get(str(run["D"]), row)
        if isinstance(row, dict) and "test_accuracy" in row:
            found.append(run | {"method": method} | row)
    return frame(found)


def frame(rows=()):
    """The rows, dicts, as a table of all columns."""
    return pd.DataFrame(rows, columns=[*TYPES]).astype(TYPES)


def read(path):
    """The table in a CSV file; a table without rows if there is no file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return frame()
    options = {"usecols": [*TYPES], "dtype": TYPES, "keep_default_na": False}
    try:
        table = pd.read_csv(path, **options, na_values={"parameters": [""]})
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path.name} is not a table of results ({reason}).") from error
    return table[[*TYPES]]


def write(path, table):
    """Write the table as a CSV file, sorted, whole."""
    with write_whole(path) as temporary:
        table.sort_values(RUN).to_csv(temporary, index=False, lineterminator="\r\n")


def merge(*tables):
    """All rows of the tables; where several have a row of the same run and method, the last."""
    return pd.concat(tables).drop_duplicates(RUN, keep="last")


def by_method(table):
    """{method: {D: (accuracies (seeds,), parameters)}} of a table of one data set.

    Several notebooks may have a row of the same method, D and seed: it counts once.
    """
    found = {}
    for (method, D), group in _by_seed(table).groupby(["method", "D"]):
        cell = group["test_accuracy"].to_numpy(), float(group["parameters"].mean())
        found.setdefault(method, {})[D] = cell
    return found


def spread(dataset, epochs):
    """{name of a method: {D: accuracies (seeds,)}} of the project's table, if there are several."""
    found = by_method(read(TABLE).query("dataset == @dataset and epochs == @epochs"))
    found = {CALLED[method]: by_D for method, by_D in found.items() if method in CALLED}
    return {n: {D: a for D, (a, _) in by_D.items() if len(a) > 1} for n, by_D in found.items()}


def _by_seed(table):
    """One row for each method, D and seed, with its parameters.

    The last notebook counts; `measure` counts where no notebook has the row.
    """
    table = table.assign(own=table["notebook"] != "measure").sort_values(["own", *RUN])
    sized = table[table["method"].isin(SIZED)].dropna(subset="parameters")
    size = sized.groupby("D")["parameters"].last()
    parameters = table["parameters"].fillna(table["D"].map(size)).astype(float)
    return table.assign(parameters=parameters).drop_duplicates(["method", "D", "seed"], keep="last")


def differences(table, first, second):
    """{D: accuracies of one method less those of another (seeds,)}, for two seeds or more."""
    wide = _by_seed(table).pivot(index=["D", "seed"], columns="method", values="test_accuracy")
    wide = wide.reindex(columns=[first, second])
    points = (wide[first] - wide[second]).dropna()
    return {D: group.to_numpy() for D, group in points.groupby("D") if len(group) > 1}


def picture(table, folder):
    """Draw the table of one data set beside published results: results.png in the folder."""
    measured = by_method(table)
    curves = {label: measured[method] for method, label in FIRST.items() if method in measured}
    published = {
        source: [*zip(group["parameters"], group["test_accuracy"], strict=True)]
        for source, group in pd.read_csv(PUBLISHED).groupby("source", sort=False)
    }
    accuracies, whole = _baseline(measured)
    return figures.accuracy_by_size(curves, whole, accuracies, published, "results", folder)


def _baseline(measured, method="baseline"):
    """Its accuracies (seeds,) and parameters at the D with the most seeds."""

    def seeds(D):
        return [len(measured[name].get(D, [[]])[0]) for name in (method, "baseline")]

    return measured[method][max(measured[method], key=seeds)]


def small_table(table):
    """The table in README.md: means alone, and the number of seeds in a line below."""
    accuracies, whole = _baseline(by_method(table))
    seeds = _by_seed(table)
    seeds = seeds[seeds["method"].isin(SMALL)].groupby(["D", "method"]).size()
    said = [
        f"{' to '.join(map(str, sorted({least, most})))} at D = {D}"
        for D, least, most in seeds.groupby("D").agg(["min", "max"]).itertuples()
    ]
    lines = _cells(table, SMALL, whole, _mean)
    below = f"Test accuracy in %. Baseline: {_mean(accuracies)}. Means of seeds:"
    return f"{lines}\n{below}\n{', '.join(said)}.\n"


def page(table, folder):
    """The page figures/README.md: all tables, and a line for each picture in the folder."""
    measured = by_method(table)
    whole = _baseline(measured)[1]
    baselines = [
        f"{label}: {_cell(_baseline(measured, method)[0])}"
        for method, label in BASELINES.items()
        if method in measured
    ]
    derivatives = "The derivatives of notebook 3, after a fifth of the baseline's epochs"
    sections = {
        "The main methods": f"{_cells(table, FIRST, whole)}\n{'; '.join(baselines)}.\n",
        "Other methods": _cells(table, OTHERS, whole),
        "Neurons and ranks: controls": _cells(table, CONTROLS, whole),
        "Differences in points, seed by seed: mean ± standard error (seeds)": _pairs(table),
        derivatives: _cells(table, DERIVATIVES, whole),
        "Published results": _published(),
        "Pictures": _pictures(folder),
    }
    return PAGE + "".join(f"\n## {title}\n\n{text}" for title, text in sections.items() if text)


def _mean(accuracies):
    return f"{100 * np.mean(accuracies):.2f}"


def _cell(accuracies):
    if len(accuracies) == 1:
        return _mean(accuracies)
    return f"{_mean(accuracies)} ± {100 * np.std(accuracies, ddof=1):.2f} ({len(accuracies)})"


def _cells(table, labels, whole, cell=_cell):
    """A line for each D, a column for each method that has both a label and results."""
    seeds = _by_seed(table)
    groups = seeds[seeds["method"].isin(labels)].groupby(["D", "method"])
    if not len(groups):
        return ""
    cells = groups["test_accuracy"].agg(cell).unstack(fill_value="")
    cells = cells[[method for method in labels if method in cells]].rename(columns=labels)
    kept = groups["parameters"].mean().groupby("D").max() / whole
    cells.insert(0, "kept", kept.map("{:.1%}".format))
    return _markdown(cells.reset_index())


def _pairs(table):
    """A line for each pair of methods, a column for each D."""

    def cell(points):
        error = np.std(points, ddof=1) / np.sqrt(len(points))
        return f"{100 * np.mean(points):+.2f} ± {100 * error:.2f} ({len(points)})"

    found = {f"{CALLED[a]} − {CALLED[b]}": differences(table, a, b) for a, b in PAIRS}
    found = pd.DataFrame({label: by_D for label, by_D in found.items() if by_D}).sort_index().T
    found = found.map(cell, na_action="ignore").fillna("").rename(columns="D = {}".format)
    return "" if found.empty else _markdown(found.rename_axis("").reset_index())


def _published():
    table = pd.read_csv(PUBLISHED, keep_default_na=False)
    table["parameters"] = table["parameters"].map("{:,}".format)
    table["test_accuracy"] = table["test_accuracy"].map("{:.2%}".format)
    return _markdown(table.rename(columns={"test_accuracy": "test accuracy"}))


def _pictures(folder):
    lines = pd.read_csv(PICTURES)[["picture", "shows"]].itertuples(index=False)
    return "".join(f"- [{n}]({n}): {shows}\n" for n, shows in lines if (folder / n).exists())


def _markdown(table):
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def main(arguments=None):
    """Add new runs to the table, and write all that shows it; return 0, or 2 with a reason."""
    parser = argparse.ArgumentParser(prog="python -m helpers.lab.results", description=__doc__)
    parser.parse_args(arguments)
    before, start, rest = README.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    try:
        new = merge(read(RUNS / "results.csv"), read(RUNS / "measure.csv"))
        table = merge(read(TABLE), new[(new["dataset"] == "mnist") & (new["epochs"] == EPOCHS)])
        if table.empty:
            raise ValueError("There are no results yet: run python -m helpers first.")
        if not (start and end):
            raise ValueError(f"{README.name} has no place for a table: {START} … {END}")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    write(TABLE, table)
    picture(table, TABLE.parent)
    write_text(TABLE.with_name("README.md"), page(table, TABLE.parent))
    write_text(README, before + START + small_table(table) + END + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
