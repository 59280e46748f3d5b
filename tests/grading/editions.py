"""Writes the student's edition and the solved one: `python -m tests.grading.editions FOLDER`.

FOLDER/student is this project without the solutions and the tests that know them, its answer cells
blank; in FOLDER/solved they hold the solutions.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from helpers import PROJECT

from . import exercises
from .problems import PROBLEMS

# What knows right answers, and wrong ones near them.
KNOWING = "grading/solutions.py", "test_exercises.py", "test_grade.py"


def main(arguments=None):
    """Write both editions; return 0, or 2 if they cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m tests.grading.editions", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write student/ and solved/")
    folder = parser.parse_args(arguments).folder
    wrong = ""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        wrong = f"FOLDER must be new or empty: {str(folder)!r} is not."
    elif folder.resolve().is_relative_to(PROJECT):
        wrong = f"FOLDER must lie outside of the project, {str(folder)!r} does not."
    elif not exercises.SOLUTIONS.exists():
        wrong = "There are no solutions in the student's edition."
    if wrong:
        print(wrong, file=sys.stderr)
        return 2
    student, solved = folder / "student", folder / "solved"
    blank = {id: problem.blank for id, problem in PROBLEMS.items()}
    written = (student, blank, exercises.NOT_TRIED), (solved, exercises.solutions(), "right")
    for edition, sources, printed in written:
        shutil.copytree(PROJECT, edition, ignore=_ignored())
        for path in (edition / "notebooks").glob("*.ipynb"):
            fill(path, sources, printed)
    for name in KNOWING:
        (student / "tests" / name).unlink()
    print(f"{student}\n{solved}")
    return 0


def _ignored():
    """What .gitignore names, and git's own."""
    lines = (PROJECT / ".gitignore").read_text(encoding="utf-8").split()
    return shutil.ignore_patterns(".git", *(line.rstrip("/") for line in lines))


def fill(path, sources, printed):
    """Write sources into a notebook's answer cells, and below their checks what they print."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    answered = None
    for cell in notebook["cells"]:
        if "answer" in cell["metadata"].get("tags", []):
            answered = cell["metadata"]["exercise"]
            cell["source"] = sources[answered].splitlines(keepends=True)
        elif answered and f'exercises.check("{answered}"' in "".join(cell["source"]):
            stream = {"name": "stdout", "output_type": "stream"}
            cell["outputs"] = [stream | {"text": [f"{answered}: {printed}\n"]}]
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
