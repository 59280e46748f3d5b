"""Grades copies of the project: `python -m tests.grading FOLDER [--results FILE] [--junit FILE]`.

From the copy only the answers to the exercises are taken (answers.py); all else is this project's
own. With --run its notebooks are run, too, as they are, helpers included (claims.py): a notebook is
worth up to three points more, by the share of its checks that hold.
"""

import argparse
import csv
import os
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from helpers import PROJECT
from helpers.lab.files import write_json, write_whole

from . import answers, claims, exercises
from .claims import NAMES
from .problems import PROBLEMS

CLAIMS = 3  # points for a notebook whose claims all hold
LARGEST = 2**26  # bytes of a notebook


class Grade(NamedTuple):
    """What one exercise, or the claims of one notebook, have won, and why not all."""

    notebook: str
    id: str
    title: str
    won: int
    possible: int
    reason: str


def main(arguments=None):
    """Print the grades; return 0 if all points were won, 1 if not, 2 for a bad argument."""
    chosen = _parser().parse_args(arguments)
    folders = _folders(chosen.folder) if chosen.copies else [chosen.folder]
    if fault := _fault(chosen, folders):
        print(fault, file=sys.stderr)
        return 2
    seed = secrets.randbelow(2**32) if chosen.seed is None else chosen.seed
    print(f"Cases of seed {seed}; --seed {seed} makes the same ones.", file=sys.stderr)
    graded = []
    for number, folder in enumerate(folders, start=1):
        name = os.path.basename(os.path.abspath(folder))
        name = os.fsencode(name).decode("utf-8", "replace")  # an old archive's may be Latin
        if chosen.copies:
            print(f"[{number} of {len(folders)}] {name} …", file=sys.stderr)
        try:
            grades = grade(folder, seed, chosen.seconds, chosen.timeout if chosen.run else None)
        except Exception as error:  # one bad copy must not cost the others their grades
            reason = f"it could not be graded: {type(error).__name__}: {error}"
            grades = [_exercise(problem, reason) for problem in PROBLEMS.values()]
            grades += [_claims(name, 0, 1, reason) for name in NAMES if chosen.run]
        graded.append((name, grades))
        print(f"{name}: {_total(grades)}" if chosen.copies else report(grades))
        _write(chosen, graded)  # what is finished, whatever becomes of the others
    return 0 if all(_won(grades) for _, grades in graded) else 1


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tests.grading", description=__doc__)
    whole = {"nargs": "?", "type": Path, "default": PROJECT}
    file = {"type": Path, "metavar": "FILE"}
    texts = {"type": Path, "metavar": "FOLDER"}
    parser.add_argument("folder", **whole, help="copy to grade; this one by default")
    parser.add_argument("--results", **file, help="write JSON for autograders")
    parser.add_argument("--junit", **file, help="write JUnit XML")
    parser.add_argument("--copies", action="store_true", help="FOLDER holds copies, a folder each")
    parser.add_argument("--csv", **file, help="write a row for each copy")
    parser.add_argument("--feedback", **texts, help="write a text for each copy")
    parser.add_argument("--run", action="store_true", help="run the notebooks of the copy, too")
    parser.add_argument("--seed", type=int, help="of what answers are handed; drawn by default")
    parser.add_argument("--seconds", type=int, default=20, help="processor time of an answer")
    parser.add_argument("--timeout", type=int, default=300, help="seconds a cell may take in --run")
    return parser


def _fault(chosen, folders):
    """What is wrong with the arguments, a sentence, before hours are spent; else ""."""
    alone = [n for n in ("results", "junit") if chosen.copies and getattr(chosen, n)]
    if exercises.resource is None:
        return "The grader needs Linux or macOS: Windows cannot limit what an answer uses."
    if not (chosen.folder.is_dir() and folders):
        holds = "hold copies" if chosen.copies else "be a copy"
        return f"FOLDER must {holds} of the project, not {str(chosen.folder)!r}."
    if alone:
        return f"--{alone[0]} is of one copy: with --copies use --csv and --feedback."
    if blocked := _blocked(chosen):
        return f"{blocked} cannot be written."
    if chosen.seconds < 1:
        return f"--seconds must be at least 1, not {chosen.seconds}."
    if chosen.seed is not None and chosen.seed < 0:
        return f"--seed must be at least 0, not {chosen.seed}."
    return ""


def _blocked(chosen):
    """A file that stands where a folder is asked for, or the other way round; else None."""
    files = [path for path in (chosen.results, chosen.junit, chosen.csv) if path]
    folders = [path.absolute().parent for path in files]
    folders += [chosen.feedback.absolute()] if chosen.feedback else []
    above = [f for path in folders for f in (path, *path.parents)]
    blocked = [f for f in files if f.is_dir()] + [f for f in above if f.exists() and not f.is_dir()]
    return blocked[0] if blocked else None


def _folders(folder):
    """The folders in a folder, if it is one; not what an archive or Jupyter adds to them."""
    return sorted(p for p in folder.glob("[!.]*") if p.is_dir() and p.name != "__MACOSX")


def _write(chosen, graded):
    """Write the table of all copies so far, and the files of the last one."""
    name, grades = graded[-1]
    if chosen.results:
        write_json(chosen.results, gradescope(grades))
    if chosen.junit:
        with write_whole(chosen.junit) as temporary:
            junit(grades).write(temporary, encoding="utf-8", xml_declaration=True)
    if chosen.feedback:
        with write_whole(chosen.feedback / f"{name}.txt") as temporary:
            temporary.write_text(report(grades) + "\n", encoding="utf-8")
    if chosen.csv:
        with (
            write_whole(chosen.csv) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file)
            table.writerow(["copy", "won", "possible", *(g.id for g in grades)])
            for name, grades in graded:
                table.writerow([name, *_sums(grades), *(g.won for g in grades)])


def grade(folder, seed, seconds, timeout=None):
    """The Grade of each exercise of a copy; with a timeout, of its notebooks' claims, too.

    Args:
        folder: pathlib.Path of a copy of the project, or of a folder of its notebooks.
        seed: of the cases.
        seconds: of processor time that an answer may take.
        timeout: seconds that a cell may take; None if the notebooks are not run.
    """
    found = {name: _answer_cells(folder, name) for name in NAMES}

    def one(problem):
        cells = found[notebook_of(problem.id)]
        if isinstance(cells, str):
            return _exercise(problem, cells)
        sources = cells.get(problem.id, [])
        return _exercise(problem, answers.grade(problem, sources, seed, seconds))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        grades = list(threads.map(one, PROBLEMS.values()))
    if timeout is None:
        return grades
    try:
        ran = claims.run(folder, timeout)
    except Exception as error:  # what the exercises have won is won
        reason = f"they could not be run: {type(error).__name__}: {error}"
        ran = dict.fromkeys(NAMES, (0, 1, reason))
    return grades + [_claims(name, *outcome) for name, outcome in ran.items()]


def notebook_of(id):
    """The name of the notebook that an exercise stands in: "3.E1" → 03_….ipynb."""
    return next(name for name in NAMES if int(name[:2]) == int(id.split(".")[0]))


def _answer_cells(folder, name):
    """{id: sources} of a notebook's answer cells, or why there are none."""
    path = claims.locate(folder, name)
    if path.exists() and not (path.is_file() and path.resolve().is_relative_to(folder.resolve())):
        return "the notebook is not a file of this copy"
    if path.exists() and path.stat().st_size > LARGEST:
        return f"the notebook is larger than {LARGEST >> 20} MiB"
    try:
        return answers.cells(path)
    except OSError:
        return "the notebook is missing"
    except ValueError as error:
        return str(error)


def _exercise(problem, reason):
    won = 0 if reason else problem.points
    name = notebook_of(problem.id)
    return Grade(name, problem.id, problem.title, won, problem.points, reason)


def _claims(name, held, made, reason):
    title = "the notebook runs, and its claims hold"
    return Grade(name, str(int(name[:2])), title, CLAIMS * held // made, CLAIMS, reason)


def report(grades):
    """The grades as text: a line for each, a total for each notebook and over all."""
    lines = []
    for name in NAMES:
        mine = [g for g in grades if g.notebook == name]
        lines += [name, *(_line(g) for g in mine), f"        {'total':55} {_total(mine)}"]
    return "\n".join([*lines, f"        {'all notebooks':55} {_total(grades)}"])


def _line(g):
    return f"  {g.id:5} {g.title:55} {g.won}/{g.possible}  {g.reason}".rstrip()


def _sums(grades):
    return sum(g.won for g in grades), sum(g.possible for g in grades)


def _total(grades):
    won, possible = _sums(grades)
    return f"{won}/{possible}"


def _won(grades):
    return all(g.won == g.possible for g in grades)


def gradescope(grades):
    """The grades as autograders read them.

    Source: https://gradescope-autograders.readthedocs.io/en/latest/specs/#output-format
    """
    tests = []
    for g in grades:
        score = {"score": g.won, "max_score": g.possible, "output": g.reason}
        tests.append({"name": f"{g.id} {g.title}", "number": g.id, **score})
    return {"score": sum(g.won for g in grades), "tests": tests}


def junit(grades):
    """The grades as JUnit XML, a suite for each notebook, points as properties."""
    add, suites = ElementTree.SubElement, ElementTree.Element("testsuites")
    for name in NAMES:
        mine = [g for g in grades if g.notebook == name]
        failures = str(len([g for g in mine if g.won < g.possible]))
        suite = add(suites, "testsuite", name=name, tests=str(len(mine)), failures=failures)
        for g in mine:
            case = add(suite, "testcase", classname=name, name=f"{g.id} {g.title}")
            properties = add(case, "properties")
            for key in ("id", "title", "won", "possible"):
                add(properties, "property", name=key, value=str(getattr(g, key)))
            if g.won < g.possible:
                add(case, "failure", message=g.reason)
    return ElementTree.ElementTree(suites)
