"""What was done to which layer, and why was the rest left alone?"""

import html
import itertools
from typing import NamedTuple

import numpy as np

from .. import svd
from ..layers import DynamicDense
from . import graph, kinds, watch
from .flow import output_layers
from .merged import whole


class Row(NamedTuple):
    """A layer of the model, and what it has become; pairs are (before, after)."""

    layer: str
    kind: str
    shape: tuple  # of its matrix, (n_in, n_out), or None
    width: tuple  # neurons, or None without a matrix
    rank: int  # singular values kept; None: all
    break_even: int  # the largest rank that saves parameters, or None without a matrix
    energy: float  # the share kept, of the SVD it was cut by; None: all, or other neurons
    rise: float  # of the loss, predicted; None where that was not observed
    parameters: tuple
    multiply_adds: tuple  # for one input, or None where they are not counted
    note: str


class Report(NamedTuple):
    """A row per layer with weights, totals, and what was measured: pairs of (before, after).

    Its text is a table, in a terminal and in a notebook.
    """

    rows: list
    parameters: tuple
    multiply_adds: tuple  # of the layers counted, or None
    measured: dict  # {name: (before, after)}
    notes: list  # sentences

    def table(self):
        """All rows and the totals as words, a pandas.DataFrame."""
        import pandas  # half a second, which those who only cut need not wait for

        table = pandas.DataFrame([*map(_cells, self.rows), _totals(self)], columns=HEADER)
        for words in ("layer", "kind", "note"):
            table[words] = table[words].str.ljust(table[words].str.len().max())
        return table

    def __str__(self):
        lines = self.table().to_string(index=False).splitlines()
        return "\n".join([*(line.rstrip() for line in lines), *self._below()])

    def _repr_html_(self):
        below = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self._below())
        return self.table().to_html(index=False) + below

    def _below(self):
        measured = [f"{name}: {_change(pair)}" for name, pair in self.measured.items()]
        return [*measured, *self.notes]


HEADER = ["layer", "kind", "shape", "width", "rank", "break-even", "energy", "rise"]
HEADER += ["parameters", "multiply-adds", "note"]


def report(before, after, seen=None, measure=None):
    """What `after`, a compressed copy of the model `before`, has made of its layers.

    Args:
        before: the model.
        after: its compressed copy, trained since or not.
        seen: from `helpers.compress.observe`, if it was cut by that: the energy kept is then that
            of its SVDs, and the predicted rise of the loss is shown; else of the plain SVDs.
        measure: a function from a model to {name: number}, run on both, for example
            `helpers.lab.cost.deployed`.

    Returns:
        Report, to print or to show in a notebook.

    Raises:
        ValueError: `after` lacks a layer of `before`: it is not a copy of it.
    """
    leaves = graph.leaves(before), graph.leaves(after)
    adds = _multiply_adds(before), _multiply_adds(after)
    merged = whole(before)
    outputs = output_layers(merged)
    rows = []
    for path, layer in graph.leaves(merged).items():
        if layer.weights:
            names = [path], [f"{path}_U", f"{path}_Vt"]
            parts = [_those(some, names) for some in leaves]
            if parts[1] is None:
                raise ValueError(f"{after.name!r} has no {path!r}: it is not a copy of the model.")
            rows.append(_row(path, layer, parts, adds, seen, path in outputs))
    counted = [row.multiply_adds for row in rows if row.multiply_adds]
    total = tuple(map(sum, zip(*counted, strict=True))) if counted else None
    parameters = before.count_params(), after.count_params()
    measured = [measure(model) for model in (before, after)] if measure else [{}, {}]
    measured = {name: (number, measured[1][name]) for name, number in measured[0].items()}
    return Report(rows, parameters, total, measured, _notes(rows, parameters, total, measured))


def _those(layers, names):
    """{path: layer} of the first of these lists of paths whose layers there all are."""
    found = [some for some in names if layers.keys() >= {*some}]
    return {path: layers[path] for path in found[0]} if found else None


def _row(path, layer, parts, adds, seen, is_output):
    """The Row of a layer, which was and has become these parts: {path: layer}, twice."""
    count = tuple(sum(part.count_params() for part in some.values()) for some in parts)
    counts = [[some.get(name) for name in those] for some, those in zip(adds, parts, strict=True)]
    costs = None if None in itertools.chain(*counts) else tuple(map(sum, counts))
    reason = kinds.refusal(layer)
    if reason:
        return Row(path, type(layer).__name__, *[None] * 6, count, costs, reason)
    kind, parts = kinds.of(layer), [*parts[1].values()]
    edge, rank = svd.break_even_rank(kind.shape), _rank(kind, parts)
    first, last = kinds.of(parts[0]), kinds.of(parts[-1])
    widths = tuple(view.kernel.shape[view.out_axis] for view in (kind, last))
    inputs = [view.kernel.shape[view.in_axis] for view in (kind, first)]
    same = widths[0] == widths[1] and inputs[0] == inputs[1]
    kept = None
    if rank is not None and same:
        factors = (seen and seen.svds.get(path)) or kind.decompose()
        kept = svd.energy(factors.s, rank)
    rise = seen.rise(path, widths[1], rank) if seen else None
    notes = _note(parts, rank, edge, costs, is_output, same), seen.stay.get(path) if seen else ""
    row = path, type(layer).__name__, kind.shape, widths, rank, edge, kept, rise, count, costs
    return Row(*row, "; ".join(filter(None, notes)))


def _note(parts, rank, edge, costs, is_output, same):
    """What became of a layer with a matrix, or why it was left alone; "" if that is plain."""
    if len(parts) == 2:
        slower = costs and costs[1] >= costs[0]
        return "smaller, not faster: no fewer multiply-adds" if slower else ""
    if not same:
        return ""
    if rank is None:
        if edge < 1:
            return "left alone: too small for any rank to save"
        by = "it gives the outputs" if is_output else "not chosen, or its rank would not save"
        return f"left alone: {by}"
    if isinstance(parts[0], DynamicDense):
        return "dynamic: smaller once it is factorized"
    if rank <= edge:
        return "truncated: smaller once it is factorized"
    return "truncated, but two factors of this rank would be no smaller"


def _rank(kind, parts):
    """The rank of what a layer has become, None if it is as it was, or whole."""
    if len(parts) == 2:
        return parts[0].weights[0].shape[-1]
    if isinstance(parts[0], DynamicDense):
        return int(parts[0].rank)
    now, W = kinds.of(parts[0]).matrix(), kind.matrix()
    if np.array_equal(now, W):
        return None
    s = np.linalg.svd(now.astype(float), compute_uv=False)
    rank = int(np.sum(s > max(1e-5, float(np.spacing(now.dtype.type(1)))) * s[0]))
    return rank if 0 < rank < len(s) else None


def _multiply_adds(model):
    """{path: multiply-adds}, or {} where inputs are of no known shape."""
    known = all(None not in x.shape[1:] for x in model.inputs)
    return {p: count.whole for p, count in watch.multiply_adds(model).items()} if known else {}


def _notes(rows, parameters, multiply_adds, measured):
    notes = []
    if multiply_adds is None:
        notes.append("Inputs are of no known shape: multiply-adds are not counted.")
    elif multiply_adds[1] >= multiply_adds[0] and parameters[1] < parameters[0]:
        notes.append("Smaller, not faster: the multiply-adds are no fewer.")
    elif not measured:
        notes.append("Fewer multiply-adds need not be less time: measure it where it runs.")
    others = [r.layer for r in rows if r.multiply_adds is None and r.note != kinds.NO_MATRIX]
    if multiply_adds and others:
        notes.append(f"The multiply-adds of {', '.join(others)} are not counted.")
    return notes


def _cells(row):
    shape = row.shape and " × ".join(map(str, row.shape))
    forms = [shape, _change(row.width), row.rank, row.break_even]
    forms += [None if row.energy is None else f"{row.energy:.1%}"]
    forms += [None if row.rise is None else f"{row.rise:.2g}"]
    forms += [_change(row.parameters), _change(row.multiply_adds)]
    return [row.layer, row.kind, *("" if f is None else str(f) for f in forms), row.note]


def _totals(report):
    note = f"{report.parameters[1] / report.parameters[0]:.1%} of the parameters"
    return ["total", *[""] * 7, _change(report.parameters), _change(report.multiply_adds), note]


def _change(pair):
    if pair is None:
        return ""
    before, after = (f"{n:,.3g}" if isinstance(n, float) else f"{n:,}" for n in pair)
    return before if before == after else f"{before} → {after}"
