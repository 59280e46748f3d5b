"""Runs the notebooks of a copy as they are, and sees which of their claims hold.

A claim is a cell whose printed text is compared with what is committed. These cells are put into
the copy as they stand in this project; all other cells, and helpers/, are the copy's own.
"""

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from helpers import PROJECT

# Not what Jupyter makes beside them: Untitled.ipynb, 01_…-Copy1.ipynb.
NAMES = sorted(
    path.name
    for path in (PROJECT / "notebooks").glob("*.ipynb")
    if re.fullmatch(r"\d\d_\w+\.ipynb", path.name)
)


class Outcome(NamedTuple):
    """Of a check's cell: why it failed ("" if it passed), and what it printed."""

    failure: str
    printed: str = ""


def locate(folder, name):
    """The path of a copy's notebook: in its folder notebooks/, or in the folder itself."""
    inside = folder / "notebooks" / name
    return inside if inside.exists() else folder / name


def run(folder, timeout):
    """Run the notebooks of a copy by nbval, with this project's own checks in the place of theirs.

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
        os.environ["SVD_FIGURES"] = str(Path(temporary) / "figures")
        os.environ.setdefault("SVD_DATASET", "subset")
        ran = {}
        for name in NAMES:
            print(f"{name} …", file=sys.stderr)
            checks = {cell.metadata.grade["id"]: cell for cell in checks_of(name)}
            outcomes = _outcomes(locate(copy, name), name, checks, timeout)
            reasons = {id: _difference(cell, outcomes[id]) for id, cell in checks.items()}
            failed = [f"{id}: {reason}" for id, reason in reasons.items() if reason]
            held = len(checks) - len(failed)
            ran[name] = held, len(checks), "; ".join(failed)
        return ran


def checks_of(name):
    """The cells of this project's own notebook that state a fact: a list."""
    cells = nbformat.read(PROJECT / "notebooks" / name, as_version=4).cells
    return [cell for cell in cells if "grade" in cell.metadata]


def _outcomes(path, name, checks, timeout):
    """{id: Outcome} of the checks, run within the notebook at `path`."""
    outcomes = dict.fromkeys(checks, Outcome("its cell is missing"))
    try:
        notebook = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        return dict.fromkeys(checks, Outcome("the notebook is missing"))
    except Exception as error:  # nbformat raises many kinds
        return dict.fromkeys(checks, Outcome(f"it is not a notebook: {_plain(str(error))}"))
    _restore(notebook, name, checks)
    nbformat.write(notebook, path)
    empty = path.with_name("pytest.ini")
    empty.write_text("[pytest]\n")
    options = f"--nbval-lax --nbval-current-env --nbval-cell-timeout={timeout} --noconftest -qq"
    with contextlib.redirect_stdout(io.StringIO()):
        arguments = [*options.split(), "-c", str(empty), str(path)]
        ended = pytest.main(arguments, plugins=[_Recorder(outcomes)])
    if ended == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    return outcomes


def _restore(notebook, name, checks):
    """Put parameters and checks of this project in the place of those of the same id."""
    own = nbformat.read(PROJECT / "notebooks" / name, as_version=4).cells
    (parameters,) = [cell for cell in own if _is_parameters(cell)]
    left = dict(checks)
    for cell in notebook.cells:
        if _is_parameters(cell):
            cell.source = parameters.source
        check = left.pop(cell.metadata.get("grade", {}).get("id"), None)
        if cell.cell_type != "code" or check is None:
            cell.metadata.pop("grade", None)  # a second one of the same id is none
            continue
        cell.source, cell.outputs, cell.execution_count = check.source, check.outputs, 1
        cell.metadata = check.metadata


def _is_parameters(cell):
    return "parameters" in cell.metadata.get("tags", [])


class _Recorder:
    """A pytest plugin that keeps the outcome of every check."""

    def __init__(self, outcomes):
        self.outcomes = outcomes

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        if item.parent.timed_out:  # each later cell might wait as long
            pytest.fail("it never ran, as an earlier cell had taken too long or ended the kernel")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = (yield).get_result()
        id = item.cell.metadata.get("grade", {}).get("id")
        if id and (report.when == "call" or not report.passed):
            outputs = item.test_outputs or []
            printed = "".join(output.get("text", "") for output in outputs)
            failure = "" if report.passed else _sentence(call.excinfo, outputs)
            self.outcomes[id] = Outcome(failure, printed)


def _sentence(excinfo, outputs):
    """Why a cell failed, without its traceback; "" if only its output differs."""
    for output in outputs:
        if output.output_type == "error" and output.ename != "KeyboardInterrupt":
            return f"{output.ename}: {_plain(output.evalue)}"
    said = _plain(str(excinfo.value))
    return "" if said.startswith("Cell outputs differ") else said


def _plain(text):
    """The first line, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip().split("\n")[0]


def _difference(cell, outcome):
    """Why a check does not hold: its failure, or the first line that is not as expected."""
    expected = "".join(output.text for output in cell.outputs).splitlines()
    found = outcome.printed.splitlines()
    if outcome.failure:
        return outcome.failure
    for i in range(max(len(expected), len(found))):
        wanted, had = (lines[i] if i < len(lines) else "nothing" for lines in (expected, found))
        if wanted != had:
            return f"expected {wanted!r}, found {had!r}"
    return ""
