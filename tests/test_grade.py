import json
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import nbformat
import pytest

from helpers import PROJECT
from tests import grade

NAMES = ["01_truncated_svd.ipynb", "02_factorized_network.ipynb", "03_dynamic_svd.ipynb"]


def submission(folder, keep):
    """A copy of the project whose notebooks hold only what these checks need."""
    shutil.copytree(PROJECT / "helpers", folder / "helpers")
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


def graded(folder, *options):
    """Grades by id, as the command writes them, and what it printed."""
    results, xml = folder / "results.json", folder / "junit.xml"
    command = [sys.executable, "-m", "tests.grade", folder, "--results", results, "--junit", xml]
    done = subprocess.run(
        [*command, *options], cwd=PROJECT, capture_output=True, text=True, timeout=200
    )
    assert "Traceback" not in done.stdout + done.stderr
    scores = json.loads(results.read_text())
    cases = ElementTree.parse(xml).findall(".//testcase")
    assert len(cases) == len(scores["tests"]) == done.stdout.count("/") - 4
    won = [int(case.find(".//property[@name='won']").get("value")) for case in cases]
    assert sum(won) == scores["score"]
    return {test["number"]: test for test in scores["tests"]}, done


def test_the_list_is_that_of_the_notebooks():
    listed = json.loads(grade.LISTED.read_text(encoding="utf-8"))
    assert listed == grade.list_graded(PROJECT / "notebooks"), "python -m tests.grade --relist"
    items = [item for notebook in listed.values() for item in notebook["graded"]]
    assert len({item["id"] for item in items}) == len(items)
    for item in items:
        kind = "exercise" if "exercise" in item else "check"
        points = f"{item['points']} point" + "s" * (item["points"] > 1)
        first = item["source"].splitlines()[0]
        assert first == f"# {kind} {item['id']} ({points}): {item['title']}"
        assert bool(item["expected"]) == (kind == "check")


def test_what_is_right_scores_and_what_is_tampered_with_does_not(tmp_path):
    keep = dict(zip(NAMES, [["1.4", "1.13"], ["2.1", "2.2"], ["3.1", "3.4"]], strict=True))
    folder = submission(tmp_path / "copy", keep)
    insert(folder, NAMES[0], "svd.truncate = lambda svd, D: (svd.U * svd.s) @ svd.Vt")
    insert(folder, NAMES[1], "import time\nwhile True:\n    time.sleep(1)", position=3)
    insert(folder, NAMES[2], "layers.straight_through = lambda x, dy, W, *_: tf.zeros_like(W)")
    insert(folder, NAMES[2], "import os; os._exit(1)", position=4)
    scores, done = graded(folder, "--timeout", "15")
    assert done.returncode == 1
    assert (scores["1.4"]["score"], scores["1.4"]["max_score"]) == (0, 2)
    assert scores["1.4"]["output"].startswith("expected ")
    assert scores["1.13"]["score"] == 1
    assert scores["1.1"]["output"] == "its cell is missing"
    assert scores["1.E1"]["max_score"] == 0
    assert scores["2.1"]["score"] == 2
    assert "never ran" in scores["2.2"]["output"]
    assert scores["3.1"]["output"] == "expected 'gradient: True', found 'gradient: False'"
    assert "never ran" in scores["3.4"]["output"]


def test_without_notebooks_nothing_scores(tmp_path):
    folder = submission(tmp_path / "copy", {})
    (folder / "notebooks" / NAMES[1]).write_text("{")
    scores, done = graded(folder)
    assert (scores["1.1"]["score"], scores["1.1"]["output"]) == (0, "the notebook is missing")
    assert scores["2.1"]["output"].startswith("it is not a notebook")
    assert done.stdout.splitlines()[-1].split()[-1].startswith("0/")


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("a: True\nb: True\n", ""),
        ("a: True\nb: False\n", "expected 'b: True', found 'b: False'"),
        ("a: not attempted\n", grade.NOT_TRIED),
        ("", "expected 'True', found 'nothing'"),
    ],
)
def test_every_line_of_an_exercise_must_be_true(printed, reason):
    assert grade._difference({"exercise": True, "expected": ""}, printed) == reason


def test_a_folder_that_is_none_is_one_sentence(capsys):
    assert grade.main(["/no/such/folder"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
