"""Grades a copy of the project: `python -m tests.grade [FOLDER] [--results FILE] [--junit FILE]`.

Graded are the checks and exercises listed in graded.json, beside this file. They are put into a
temporary copy of the folder's notebooks as they are listed, so that nothing is won by changing
one; all other cells, and helpers/, are graded as they are. nbval runs the copy on the bundled
digits. An exercise counts once it was tried.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import nbformat
import pytest

from helpers import PROJECT
from helpers.lab.files import write_json, write_whole

LISTED = Path(__file__).with_name("graded.json")
NOT_TRIED = "not attempted"


class Outcome(NamedTuple):
    """Of one cell: why it failed ("" if it passed), what it printed, and whether it ran at all."""

    failure: str
    printed: str = ""
    ran: bool = False


class Grade(NamedTuple):
    """What one check or exercise has won; `reason` says what was expected and what was found."""

    notebook: str
    id: str
    title: str
    won: int
    possible: int
    reason: str


def main(arguments=None):
    """Print the grades; return 0 if all points were won, 1 if not, 2 for a bad argument."""
    parser = argparse.ArgumentParser(prog="python -m tests.grade", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=PROJECT, help="copy to grade")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write JSON for autograders")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--timeout", type=int, default=300, help="seconds a cell may take")
    parser.add_argument("--relist", action="store_true", help="write graded.json anew")
    chosen = parser.parse_args(arguments)
    if chosen.relist:
        write_json(LISTED, list_graded(PROJECT / "notebooks"))
        return 0
    if not chosen.folder.is_dir():
        print(f"FOLDER must be a copy of the project, not {str(chosen.folder)!r}.", file=sys.stderr)
        return 2
    listed = json.loads(LISTED.read_text(encoding="utf-8"))
    grades = grade(chosen.folder, listed, chosen.timeout)
    print_grades(grades)
    if chosen.results:
        write_json(chosen.results, gradescope(grades))
    if chosen.junit:
        with write_whole(chosen.junit) as temporary:
            junit(grades).write(temporary, encoding="utf-8", xml_declaration=True)
    return 0 if all(g.won == g.possible for g in grades) else 1


def list_graded(notebooks):
    """What is graded in these notebooks: {notebook: {"parameters": cell, "graded": [cell]}}."""
    listed = {}
    for path in sorted(notebooks.glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        (parameters,) = [cell for cell in cells if _is_parameters(cell)]
        graded = [_listed(cell) for cell in cells if "grade" in cell.metadata]
        listed[path.name] = {"parameters": parameters.source, "graded": graded}
    return listed


def _is_parameters(cell):
    return "parameters" in cell.metadata.get("tags", [])


def _listed(cell):
    """A graded cell: its grade, source, tags and, where it is compared, expected output."""
    compared = "nbval-check-output" in cell.metadata.tags
    expected = "".join(output.text for output in cell.outputs) if compared else ""
    return {
        **cell.metadata.grade,
        **{"source": cell.source, "tags": cell.metadata.tags, "expected": expected},
    }


def grade(folder, listed, timeout):
    """Run the folder's notebooks, with the listed cells in them.

    Args:
        folder: pathlib.Path of a copy of the project.
        listed: from `list_graded`.
        timeout: seconds a cell may take.

    Returns:
        list of Grade, one for each listed check and exercise.
    """
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "copy"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".*", "figures"))
        os.environ["SVD_FIGURES"] = str(Path(temporary) / "figures")
        os.environ.setdefault("SVD_DATASET", "subset")
        grades = []
        for name, graded in listed.items():
            print(f"{name} …", file=sys.stderr)
            outcomes = _run(copy / "notebooks" / name, graded, timeout)
            grades += [_grade(name, item, outcomes) for item in graded["graded"]]
    return grades


def _run(path, graded, timeout):
    """{id: Outcome} of the listed cells."""
    outcomes = {item["id"]: Outcome("its cell is missing") for item in graded["graded"]}
    try:
        notebook = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        return dict.fromkeys(outcomes, Outcome("the notebook is missing"))
    except Exception as error:  # nbformat raises many kinds
        return dict.fromkeys(outcomes, Outcome(f"it is not a notebook: {_plain(str(error))}"))
    _restore(notebook, graded)
    nbformat.write(notebook, path)
    empty = path.with_name("pytest.ini")
    empty.write_text("[pytest]\n")
    options = f"--nbval-lax --nbval-current-env --nbval-cell-timeout={timeout} --noconftest -qq"
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main([*options.split(), "-c", str(empty), str(path)], plugins=[_Recorder(outcomes)])
    return outcomes


def _restore(notebook, graded):
    """Put the listed cells in the place of the submitted ones of the same id."""
    listed = {item["id"]: item for item in graded["graded"]}
    for cell in notebook.cells:
        if _is_parameters(cell):
            cell.source = graded["parameters"]
        item = listed.pop(cell.metadata.get("grade", {}).get("id"), None)
        if cell.cell_type != "code" or item is None:
            cell.metadata.pop("grade", None)  # a second one of the same id is none
            continue
        cell.source, cell.metadata["tags"], cell.execution_count = item["source"], item["tags"], 1
        cell.outputs = []
        if item["expected"]:
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=item["expected"])]


class _Recorder:
    """A pytest plugin that keeps the outcome of every graded cell."""

    def __init__(self, outcomes):
        self.outcomes = outcomes

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        if item.parent.timed_out:  # each later cell might wait as long
            pytest.fail("it never ran, as an earlier cell had taken too long or ended the kernel")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = (yield).get_result()
        graded = item.cell.metadata.get("grade", {}).get("id")
        if graded and (report.when == "call" or not report.passed):
            outputs = item.test_outputs or []
            printed = "".join(output.get("text", "") for output in outputs)
            failure = "" if report.passed else _sentence(call.excinfo, outputs)
            self.outcomes[graded] = Outcome(failure, printed, ran=report.when == "call")


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


def _grade(notebook, item, outcomes):
    outcome = outcomes[item["id"]]
    reason = outcome.failure or _difference(item, outcome.printed)
    tried = outcome.ran and reason != NOT_TRIED
    possible = item["points"] if tried or "exercise" not in item else 0
    won = 0 if reason else possible
    return Grade(notebook, item["id"], item["title"], won, possible, reason)


def _difference(item, printed):
    """The first line that is not as expected, "" if all are; an exercise's must say True."""
    found = printed.splitlines()
    if "exercise" in item:
        if any(line.endswith(NOT_TRIED) for line in found):
            return NOT_TRIED
        expected = [line.rpartition(":")[0] + ": True" for line in found] or ["True"]
    else:
        expected = item["expected"].splitlines()
    for i in range(max(len(expected), len(found))):
        wanted, had = (lines[i] if i < len(lines) else "nothing" for lines in (expected, found))
        if wanted != had:
            return f"expected {wanted!r}, found {had!r}"
    return ""


def print_grades(grades):
    """A line for each check and exercise, a total for each notebook and over all."""
    for name in dict.fromkeys(g.notebook for g in grades):
        print(name)
        mine = [g for g in grades if g.notebook == name]
        for g in mine:
            print(f"  {g.id:5} {g.title:62} {g.won}/{g.possible}  {g.reason}".rstrip())
        print(f"        {'total':62} {_total(mine)}")
    print(f"        {'all notebooks':62} {_total(grades)}")


def _total(grades):
    return f"{sum(g.won for g in grades)}/{sum(g.possible for g in grades)}"


def gradescope(grades):
    """The grades as autograders read them.

    Source: https://gradescope-autograders.readthedocs.io/en/latest/specs/#output-format
    """
    tests = [
        {
            "name": f"{g.id} {g.title}",
            "number": g.id,
            "score": g.won,
            "max_score": g.possible,
            "output": g.reason,
        }
        for g in grades
    ]
    return {"score": sum(g.won for g in grades), "tests": tests}


def junit(grades):
    """The grades as JUnit XML, a suite for each notebook, points as properties."""
    suites = ElementTree.Element("testsuites")
    for name in dict.fromkeys(g.notebook for g in grades):
        mine = [g for g in grades if g.notebook == name]
        failures = [g for g in mine if g.won < g.possible]
        suite = ElementTree.SubElement(
            suites, "testsuite", name=name, tests=str(len(mine)), failures=str(len(failures))
        )
        for g in mine:
            case = ElementTree.SubElement(
                suite, "testcase", classname=name, name=f"{g.id} {g.title}"
            )
            properties = ElementTree.SubElement(case, "properties")
            for key in ("id", "title", "won", "possible"):
                ElementTree.SubElement(properties, "property", name=key, value=str(getattr(g, key)))
            if g in failures:
                ElementTree.SubElement(case, "failure", message=g.reason)
            elif g.reason == NOT_TRIED:
                ElementTree.SubElement(case, "skipped", message=g.reason)
    return ElementTree.ElementTree(suites)


if __name__ == "__main__":
    sys.exit(main())
