"""Runs the notebooks of a copy as they are, and sees which of their claims hold.

A claim is a cell whose printed text is compared with what is committed. These cells are put into
the copy as they stand in this project; all other cells, and helpers/, are the copy's own.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from helpers import PROJECT

# Not what Jupyter makes beside them: Untitled.ipynb, 01_…-Copy1.ipynb.
NAMES = sorted(
    path.name
    for path in (PROJECT / "notebooks").glob("*.ipynb")
    if re.fullmatch(r"\d\d_\w+\.ipynb", path.name)
)


def locate(folder, name):
    """The path of a copy's notebook: in its folder notebooks/, or in the folder itself."""
    inside = folder / "notebooks" / name
    return inside if inside.exists() else folder / name


def checks_of(name):
    """The cells of this project's own notebook that state a fact: a list."""
    return [cell for cell in _cells(PROJECT / "notebooks" / name) if "grade" in cell.metadata]


def _by_id(cells):
    return {cell.metadata.grade["id"]: cell for cell in cells if "grade" in cell.metadata}


def _cells(path):
    return nbformat.read(path, as_version=4).cells


def run(folder, timeout):
    """Run the notebooks of a copy, with this project's own checks in the place of theirs.

    Args:
        folder: pathlib.Path of a copy of the project.
        timeout: seconds a cell may take.

    Returns:
        {notebook: (claims that hold, claims made, why the others do not)}.
    """
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "copy"
        ignored = shutil.ignore_patterns(".*", "figures")
        shutil.copytree(folder, copy, ignore=ignored, ignore_dangling_symlinks=True)
        figures = {"SVD_FIGURES": str(Path(temporary) / "figures")}
        environment = {"SVD_DATASET": "subset"} | os.environ | figures
        ran = {}
        for name in NAMES:
            print(f"{name} …", file=sys.stderr)
            checks = _by_id(checks_of(name))
            failed = _failed(locate(copy, name), name, checks, timeout, environment)
            reasons = "; ".join(f"{id}: {reason}" for id, reason in failed.items())
            ran[name] = len(checks) - len(failed), len(checks), reasons
        return ran


def _failed(path, name, checks, timeout, environment):
    """Why checks do not hold in the notebook at `path`: {id: reason}."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        return dict.fromkeys(checks, "the notebook is missing")
    except Exception as error:  # nbformat raises many kinds
        return dict.fromkeys(checks, f"it is not a notebook: {_first_line(str(error))}")
    _restore(notebook, name, checks)
    within = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook, timeout=timeout, allow_errors=True, kernel_name="python3", resources=within
    )
    ended = ""
    try:
        client.execute(env=environment)
    except (CellTimeoutError, DeadKernelError):  # no later cell ran
        ended = "it never ran, or not to its end: a cell took too long, or ended the kernel"
    cells = _by_id(notebook.cells)
    reasons = {id: _difference(check, cells.get(id), ended) for id, check in checks.items()}
    return {id: reason for id, reason in reasons.items() if reason}


def _restore(notebook, name, checks):
    """Put parameters and checks of this project in the place of those of the same id."""
    own = _cells(PROJECT / "notebooks" / name)
    (parameters,) = [cell for cell in own if _is_parameters(cell)]
    left = dict(checks)
    for cell in notebook.cells:
        if _is_parameters(cell):
            cell.source = parameters.source
        check = left.pop(cell.metadata.get("grade", {}).get("id"), None)
        if cell.cell_type != "code" or check is None:
            cell.metadata.pop("grade", None)  # a second one of the same id is none
            continue
        cell.source, cell.metadata, cell.outputs = check.source, check.metadata, []


def _is_parameters(cell):
    return "parameters" in cell.metadata.get("tags", [])


def _difference(check, cell, ended):
    """Why a check does not hold: what ended it, or the first line that is not as expected."""
    if cell is None:
        return "its cell is missing"
    for output in cell.outputs:
        if output.output_type == "error":
            return f"{output.ename}: {_first_line(output.evalue)}"
    expected, found = (_printed(c).splitlines() for c in (check, cell))
    for i in range(max(len(expected), len(found))):
        wanted, had = (lines[i] if i < len(lines) else "nothing" for lines in (expected, found))
        if wanted != had:
            return ended or f"expected {wanted!r}, found {had!r}"
    return ""


def _printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def _first_line(text):
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip().split("\n")[0]
