"""Grades copies of the project: `python -m tests.grading.grade FOLDER [--results FILE] [--junit FILE]`.

From the copy only the answers to the exercises are taken (tests/answers.py); all else is this
project's own. With --run its notebooks are run, too, as they are, helpers included (claims.py):
a notebook is worth up to three points more, by the share of its checks that hold.
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
from tests.grading.problems import PROBLEMS

from . import answers, claims
from .claims import NAMES

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
    alone = [n for n in ("results", "junit") if chosen.copies and getattr(chosen, n)]
    wrong = ""
    folders = _folders(chosen.folder) if chosen.copies else [chosen.folder]
    if not (chosen.folder.is_dir() and folders):
        holds = "hold copies" if chosen.copies else "be a copy"
        wrong = f"FOLDER must {holds} of the project, not {str(chosen.folder)!r}."
    elif alone:
        wrong = f"--{alone[0]} is of one copy: with --copies use --csv and --feedback."
    elif blocked := _blocked(chosen):
        wrong = f"{blocked} cannot be written."
    elif chosen.seconds < 1:
        wrong = f"--seconds must be at least 1, not {chosen.seconds}."
    elif chosen.seed is not None and chosen.seed < 0:
        wrong = f"--seed must be at least 0, not {chosen.seed}."
    if wrong:
        print(wrong, file=sys.stderr)
        return 2
    if chosen.seed is None:
        chosen.seed = secrets.randbelow(2**32)
    print(
        f"Cases of seed {chosen.seed}; --seed {chosen.seed} makes the same ones.", file=sys.stderr
    )
    return _grade_all(chosen) if chosen.copies else _grade_one(chosen)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tests.grading.grade", description=__doc__)
    whole = {"nargs": "?", "type": Path, "default": PROJECT}
    file = {"type": Path, "metavar": "FILE"}
    parser.add_argument("folder", **whole, help="copy to grade; this one by default")
    parser.add_argument("--results", **file, help="write JSON for autograders")
    parser.add_argument("--junit", **file, help="write JUnit XML")
    parser.add_argument("--copies", action="store_true", help="FOLDER holds copies, a folder each")
    parser.add_argument("--csv", **file, help="write a row for each copy")
    parser.add_argument(
        "--feedback", type=Path, metavar="FOLDER", help="write a text for each copy"
    )
    parser.add_argument("--run", action="store_true", help="run the notebooks of the copy, too")
    parser.add_argument("--seed", type=int, help="of what answers are handed; drawn by default")
    parser.add_argument("--seconds", type=int, default=20, help="processor time of an answer")
    parser.add_argument("--timeout", type=int, default=300, help="seconds a cell may take in --run")
    return parser


def _blocked(chosen):
    """What is asked for where it cannot be written, before hours are spent; else None."""
    files = [path for path in (chosen.results, chosen.junit, chosen.csv) if path]
    folders = [path.absolute().parent for path in files]
    folders += [chosen.feedback.absolute()] if chosen.feedback else []
    blocked = [path for path in files if path.is_dir()]
    blocked += [
        f for path in folders for f in (path, *path.parents) if f.exists() and not f.is_dir()
    ]
    return blocked[0] if blocked else None


def _grade_one(chosen):
    grades = grade(chosen.folder, chosen)
    text = report(grades)
    print(text)
    if chosen.results:
        write_json(chosen.results, gradescope(grades))
    if chosen.junit:
        with write_whole(chosen.junit) as temporary:
            junit(grades).write(temporary, encoding="utf-8", xml_declaration=True)
    _keep(chosen, [(chosen.folder.resolve().name, grades)])
    return 0 if _won(grades) else 1


def _grade_all(chosen):
    """Grade every copy; what is finished is written, whatever becomes of the others."""
    folders, graded = _folders(chosen.folder), []
    for number, folder in enumerate(folders, start=1):
        name = os.fsencode(folder.name).decode("utf-8", "replace")  # an old archive's may be Latin
        print(f"[{number} of {len(folders)}] {name} …", file=sys.stderr)
        try:
            grades = grade(folder, chosen)
        except Exception as error:  # one bad copy must not cost the others their grades
            grades = _nothing(
                f"it could not be graded: {type(error).__name__}: {error}", chosen.run
            )
        graded.append((name, grades))
        print(f"{name}: {_total(grades)}")
        _keep(chosen, graded)
    return 0 if all(_won(grades) for _, grades in graded) else 1


def _folders(folder):
    """The folders in a folder, if it is one; not what an archive or Jupyter adds to them."""
    return sorted(p for p in folder.glob("[!.]*") if p.is_dir() and p.name != "__MACOSX")


def _keep(chosen, graded):
    """Write the table of all copies so far, and the text of the last one."""
    name, grades = graded[-1]
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
                won, possible = (sum(column) for column in zip(*_points(grades), strict=True))
                table.writerow([name, won, possible, *(g.won for g in grades)])


def grade(folder, chosen):
    """The Grade of each exercise of a copy; with chosen.run, of its notebooks' claims, too.

    Args:
        folder: pathlib.Path of a copy of the project, or of a folder of its notebooks.
        chosen: seed, seconds, run and timeout, as from the command line.
    """
    found = {name: _answer_cells(folder, name) for name in NAMES}
    with ThreadPoolExecutor(os.cpu_count()) as threads:

        def one(problem):
            name = notebook_of(problem.id)
            if isinstance(found[name], str):
                reason = found[name]
            else:
                sources = found[name].get(problem.id, [])
                reason = answers.grade(problem, sources, chosen.seed, chosen.seconds)
            return _exercise(problem, reason)

        grades = list(threads.map(one, PROBLEMS.values()))
    ran = {}
    if chosen.run:
        try:
            ran = claims.run(folder, chosen.timeout)
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
        return "the notebook is no file of this copy"
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


def _nothing(reason, run):
    unproven = [_claims(name, 0, 1, reason) for name in NAMES] if run else []
    return [_exercise(problem, reason) for problem in PROBLEMS.values()] + unproven


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


def _points(grades):
    return [(g.won, g.possible) for g in grades]


def _total(grades):
    return "/".join(str(sum(column)) for column in zip(*_points(grades), strict=True))


def _won(grades):
    return all(won == possible for won, possible in _points(grades))


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
    for name in NAMES:
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
    return ElementTree.ElementTree(suites)


if __name__ == "__main__":
    sys.exit(main())
