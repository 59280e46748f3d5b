import json
import re
import shutil
import subprocess
import sys

import nbformat

from helpers import PROJECT
from tests import claims

NAMES = claims.NAMES


# These checks need no TensorFlow, which takes seconds to import, and on a busy machine a minute.
BACKEND = "from unittest.mock import MagicMock\n\nkeras = tf = MagicMock()\n"


def submission(folder, keep):
    """A copy of the project whose notebooks hold only what these checks need."""
    shutil.copytree(PROJECT / "helpers", folder / "helpers")
    (folder / "helpers" / "lab" / "backend.py").write_text(BACKEND)
    (folder / "notebooks").mkdir()
    for name, ids in keep.items():
        notebook = nbformat.read(PROJECT / "notebooks" / name, as_version=4)
        notebook.cells = [
            cell
            for cell in notebook.cells
            if cell.source.startswith("import ")
            or "parameters" in cell.metadata.get("tags", [])
            or cell.metadata.get("grade", {}).get("id") in ids
        ]
        nbformat.write(notebook, folder / "notebooks" / name)
    return folder


def insert(folder, name, source, position=2):
    path = folder / "notebooks" / name
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(position, nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, path)


def ran(folder):
    """{notebook's number: its grade} of `python -m tests.grade --run`."""
    results = folder / "results.json"
    command = [sys.executable, "-m", "tests.grading.grade", folder, "--run", "--timeout", "20"]
    done = subprocess.run(
        [*command, "--results", results],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "Traceback" not in done.stdout + done.stderr
    tests = json.loads(results.read_text())["tests"]
    return {test["number"]: test for test in tests if "E" not in test["number"]}


def test_a_check_says_what_is_committed():
    found = [cell for name in NAMES for cell in claims.checks_of(name)]
    assert len({cell.metadata.grade.id for cell in found}) == len(found) > 25
    for cell in found:
        id, title = cell.metadata.grade.id, cell.metadata.grade.title
        assert re.match(rf"# check {id}(?: \(\d points?\))?: {re.escape(title)}\n", cell.source)
        assert "nbval-check-output" in cell.metadata.tags
        printed = "".join(output.text for output in cell.outputs)
        assert printed
        assert "False" not in printed


def test_claims_that_are_tampered_with_do_not_hold(tmp_path):
    last = [cell.metadata.grade.id for cell in claims.checks_of(NAMES[2])][:2]
    keep = dict(zip(NAMES, [["1.4", "1.13"], ["2.1", "2.2"], last], strict=True))
    folder = submission(tmp_path / "copy", keep)
    insert(folder, NAMES[0], "svd.truncate = lambda svd, D: (svd.U * svd.s) @ svd.Vt")
    insert(folder, NAMES[1], "import time\nwhile True:\n    time.sleep(1)", position=3)
    insert(folder, NAMES[2], "import os; os._exit(1)", position=0)
    grades = ran(folder)
    first = dict(part.split(": ", 1) for part in grades["1"]["output"].split("; "))
    assert first["1.4"].startswith("expected ")
    assert first["1.1"] == "its cell is missing"
    assert "1.13" not in first
    second = dict(part.split(": ", 1) for part in grades["2"]["output"].split("; "))
    assert "2.1" not in second
    assert "never ran" in second["2.2"]
    third = dict(part.split(": ", 1) for part in grades["3"]["output"].split("; "))
    assert all("never ran" in third[id] for id in last)
    assert [grade["score"] for grade in grades.values()] == [0, 0, 0]


def test_without_notebooks_nothing_is_claimed(tmp_path):
    folder = submission(tmp_path / "copy", {})
    (folder / "notebooks" / NAMES[1]).write_text("{")
    grades = ran(folder)
    assert "1.1: the notebook is missing" in grades["1"]["output"]
    assert "2.1: it is not a notebook" in grades["2"]["output"]
    assert [grade["score"] for grade in grades.values()] == [0, 0, 0]
