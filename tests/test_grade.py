import csv
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import nbformat
import pytest

from helpers import PROJECT
from tests import answers, claims, editions, grade, solutions
from tests.grading import exercises
from tests.grading.problems import PROBLEMS

SOLUTIONS = PROJECT / "tests" / "solutions.py"
PROJECTION = PROBLEMS["3.E2"]
RIGHT = """def project(X, U, Vt):
    return U @ (U.T @ X) + (X - U @ (U.T @ X)) @ Vt.T @ Vt
"""
# Each after, before or in the place of an answer that is wrong.
WRONG = "def project(X, U, Vt):\n    return X\n"


def reporting(report):
    """An answer that finds where its process reports to, and writes there itself."""
    return f"""def project(X, U, Vt):
    os = np.f2py.os
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, {json.dumps(report).encode()!r})
        except OSError:
            pass
    os._exit(0)
"""


FORGERIES = {
    "print": ("def print(*values):\n    pass\n" + WRONG, "line 1: expected imports and project"),
    "allclose": ("np.allclose = lambda *a, **k: True\n" + WRONG, "line 1: expected imports"),
    "allclose inside": (
        WRONG.replace("return", "np.allclose = np.linalg.norm = lambda *a, **k: 0.0; return"),
        "expected nothing outside",
    ),
    "equal to all": (
        "class Same(float):\n    def __eq__(self, other):\n        return True\n" + WRONG,
        "line 1: expected imports",
    ),
    "equal to all inside": (
        """def project(X, U, Vt):
    return type("Same", (float,), {"__eq__": lambda *a: True, "__le__": lambda *a: True})()
""",
        "expected finite numbers of shape (12, 9), found 0.0",
    ),
    "atexit": ("import atexit\n" + WRONG, "line 1: it may import"),
    "atexit inside": (WRONG.replace("return X", "import atexit"), "line 2: it may import"),
    "the module that it hands": (
        "def project(X, U, Vt):\n    svd.decompose = None\n    svd.SVD.count = 1\n    return X",
        "expected nothing outside",
    ),
    "patched verdict": (
        WRONG.replace("return X", "from helpers.lab import problems"),
        "line 2: it may import",
    ),
    "sys.exit": (WRONG.replace("return X", "raise SystemExit(0)"), "SystemExit: 0, line 2"),
    "exit": (WRONG.replace("return X", "exit()"), "SystemExit"),
    "memory without end": (
        WRONG.replace("return X", "a = [0]\n    while True: a += a"),
        "expected at most 2 GiB of memory",
    ),
    "a file written over": (
        WRONG.replace("return X", f"open({str(SOLUTIONS)!r}, 'a').write('#')"),
        "it may not open",
    ),
    "reading the solution": (
        WRONG.replace("return X", f"exec(open({str(SOLUTIONS)!r}).read()); return X"),
        "it may not open",
    ),
    "reading it by NumPy": (
        WRONG.replace("return X", f"return np.fromfile({str(SOLUTIONS)!r}, dtype='u1')"),
        "it may not open",
    ),
    "importing the solution": ("from tests.solutions import project\n", "line 1: it may import"),
    "importing from the copy": ("from mine import project\n", "line 1: it may import"),
    "by its folder": ("from .mine import project\n", "line 1: it may import"),
    "by another way in": (
        WRONG.replace("return X", "return np.core.__builtins__"),
        "line 2: it may not use __builtins__",
    ),
    "a process of its own": (
        WRONG.replace("return X", "np.f2py.subprocess.run(['true']); return X"),
        "it may not call subprocess.Popen",
    ),
    "a fork": (WRONG.replace("return X", "np.f2py.os.fork(); return X"), "not call os.fork"),
    "the grader's end": (
        WRONG.replace("return X", "np.f2py.os.kill(np.f2py.os.getppid(), 9); return X"),
        "it may not call os.kill",
    ),
    "limits raised": (
        WRONG.replace("return X", "np.f2py.sys.modules['resource'].setrlimit(0, (-1, -1))"),
        "it may not call resource.setrlimit",
    ),
    "the guard's own names": (
        WRONG.replace(
            "return X",
            "m = np.f2py.sys.modules['__main__']; m.FORBIDDEN = ('none.',); m.LISTING = ('open',)"
            "; m.isinstance = m.realpath = m.set = lambda *a: True; m.os = m.json = np"
            f"; exec(open({str(SOLUTIONS)!r}).read()); return X",
        ),
        "it may not open",
    ),
    "the frames around it": (
        WRONG.replace("return X", "g = (g.gi_frame.f_back for _ in [0]); return next(g)"),
        "line 2: it may not use f_back",
    ),
    "a report of its own": (reporting({"failure": ""}), "it ended Python"),
    "a report that is none": (reporting({"found": 3}), "it ended Python"),
    "a report of nothing": (reporting({"found": []}), "not attempted"),
    "a report of two": (reporting({"found": [1, 2]}), "expected 3 values, found 2"),
    "a report that promises": (reporting({"found": [{}, {}, {}]}), "found other bytes"),
    "more than it was asked for": (WRONG + "print('3.E2: right')\n", "line 3: expected imports"),
    "a decorator": ("@print\n" + WRONG, "line 2: expected imports"),
    "a global": (WRONG.replace("return X", "global np"), "line 2: it may not rebind"),
    "another name": ("def projected(X, U, Vt):\n    return X", "line 1: expected imports"),
    "imports alone": ("import math", "it does not define project"),
    "no Python": ("def project(X:", "line 1: "),
    "a magic": ("%load_ext x", "line 1: "),
    "a null byte": ("\0", "it is not Python"),
    "an error": (WRONG.replace("return X", "return X @ X"), "ValueError: "),
    "an error of many lines": (
        WRONG.replace("return X", "raise ValueError('a\\nb\\0' * 999)"),
        "ValueError: a b?a b?",
    ),
    "text": (WRONG.replace("return X", "return 'right'"), "expected finite numbers"),
    "more than can be written": (
        WRONG.replace("return X", "return np.zeros((3000, 3000))"),
        "it ended Python",
    ),
    "nested without end": (
        WRONG.replace("return X", "a = []\n    for _ in range(5000): a = [a]\n    return a"),
        "RecursionError",
    ),
    "nothing": (WRONG.replace("return X", "pass"), "not attempted"),
}


def graded(source):
    return answers.grade(PROJECTION, [source], seed=2, seconds=20)


def test_what_is_right_scores():
    assert graded(RIGHT) == ""
    assert graded("import numpy as np\nfrom math import sqrt\n\n\n# by hand\n" + RIGHT) == ""
    assert graded("from scipy import linalg\nfrom helpers import svd\n" + RIGHT) == ""
    assert graded(RIGHT.replace("def", "project = 1\ndef")) == ""
    assert graded('"""By hand."""\n' + RIGHT) == ""
    counting = "    n = 0\n    def count():\n        nonlocal n\n        n += 1\n    count()\n"
    assert graded(RIGHT.replace("    return", counting + "    return")) == ""


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_forged_does_not(name):
    source, expected = FORGERIES[name]
    before = SOLUTIONS.read_bytes() if SOLUTIONS.exists() else b""
    reason = graded(source)
    assert reason
    assert expected in reason
    assert "\n" not in reason
    assert len(reason) <= 300
    assert before == (SOLUTIONS.read_bytes() if SOLUTIONS.exists() else b"")


@pytest.mark.parametrize(
    ("seconds", "by_the_clock", "expected"),
    [(1, 100, "it took more than 1 seconds of processor time"), (20, 1, "it took more than 1 sec")],
)
def test_an_endless_loop_is_ended(seconds, by_the_clock, expected):
    source = WRONG.replace("return X", "while True: pass")
    asked = {"id": PROJECTION.id, "source": source, "seed": 2, "seconds": seconds}
    assert answers._run(asked, by_the_clock).startswith(expected)


def test_an_answer_has_its_seconds_of_the_processor_and_three_times_that_by_the_clock(monkeypatch):
    given = []
    monkeypatch.setattr(answers, "_run", lambda asked, seconds: given.append((asked, seconds)))
    answers.grade(PROJECTION, [RIGHT], seed=2, seconds=7)
    ((asked, seconds),) = given
    assert (asked["seconds"], seconds) == (7, 21)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the notebooks alone, with two exercises answered, one of them right."""
    folder = tmp_path_factory.mktemp("copies") / "ada"
    shutil.copytree(PROJECT / "notebooks", folder / "notebooks")
    answer(folder, "1.E2", "harmless_rank = 10  # as many singular values")
    answer(folder, "3.E1", "largest_cheaper_D = 139")
    return folder


def answer(folder, id, source, times=1):
    path = folder / "notebooks" / grade.notebook_of(id)
    notebook = nbformat.read(path, as_version=4)
    (i,) = [i for i, cell in enumerate(notebook.cells) if cell.metadata.get("exercise") == id]
    notebook.cells[i].source = source
    for number in range(1, times):
        metadata = notebook.cells[i].metadata
        notebook.cells.insert(i + number, nbformat.v4.new_code_cell(source, metadata=metadata))
    nbformat.write(notebook, path)


def test_a_copy_is_graded(copy, tmp_path):
    results, xml = tmp_path / "results.json", tmp_path / "junit.xml"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.grading.grade", copy),
            *("--results", results, "--junit", xml, "--seed", "5"),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 1
    assert "seed 5" in done.stderr
    assert done.stdout.splitlines()[-1].split() == ["all", "notebooks", "2/45"]
    scores = json.loads(results.read_text())
    assert scores["score"] == 2
    tests = {test["number"]: test for test in scores["tests"]}
    assert [*tests] == [*PROBLEMS]
    assert (tests["1.E2"]["score"], tests["1.E2"]["max_score"]) == (2, 2)
    assert (tests["3.E1"]["score"], tests["3.E1"]["max_score"]) == (0, 1)
    assert tests["3.E1"]["output"].startswith("expected fewer multiply-adds than 805,306,368")
    assert tests["2.E1"]["output"] == "not attempted"
    cases = ElementTree.parse(xml).findall(".//testcase")
    won = [int(case.find(".//property[@name='won']").get("value")) for case in cases]
    assert len(cases) == len(PROBLEMS)
    assert sum(won) == 2
    assert len(ElementTree.parse(xml).findall(".//failure")) == len(PROBLEMS) - 1


def test_an_untouched_copy_scores_nothing(capsys):
    assert grade.main([]) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].split() == ["all", "notebooks", "0/45"]


def test_a_class_is_graded_and_a_bad_copy_costs_the_others_nothing(copy, tmp_path, capsys):
    folder = tmp_path / "class"
    shutil.copytree(copy, folder / "ada")
    shutil.copytree(copy / "notebooks", folder / "bob")  # notebooks alone
    (folder / "eve" / "notebooks").mkdir(parents=True)
    (folder / "eve" / "notebooks" / claims.NAMES[0]).write_text("{")
    (folder / "eve" / "notebooks" / claims.NAMES[1]).write_text('{"cells": [3]}')
    (folder / "a file").write_text("")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "__MACOSX").mkdir()
    table, feedback = tmp_path / "grades.csv", tmp_path / "feedback"
    options = ["--copies", "--csv", str(table), "--feedback", str(feedback)]
    assert grade.main([str(folder), *options]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["ada: 2/45", "bob: 2/45", "eve: 0/45"]
    assert "[3 of 3] eve" in printed.err
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [(row["copy"], row["won"], row["possible"]) for row in rows] == [
        *(("ada", "2", "45"), ("bob", "2", "45"), ("eve", "0", "45"))
    ]
    assert [row["1.E2"] for row in rows] == ["2", "2", "0"]
    said = (feedback / "eve.txt").read_text(encoding="utf-8")
    assert "is not a notebook" in said
    assert "the notebook is missing" in said
    assert "expected fewer multiply-adds" in (feedback / "ada.txt").read_text(encoding="utf-8")


def test_what_the_grader_cannot_foresee_costs_one_copy_only(tmp_path, monkeypatch, capsys):
    (tmp_path / "ada").mkdir()
    (tmp_path / "bob").mkdir()
    graded = grade.grade

    def failing(folder, chosen):
        if folder.name == "ada":
            raise RuntimeError("no more space")
        return graded(folder, chosen)

    monkeypatch.setattr(grade, "grade", failing)
    table = tmp_path / "grades.csv"
    assert grade.main([str(tmp_path), "--copies", "--csv", str(table)]) == 1
    assert capsys.readouterr().out == "ada: 0/45\nbob: 0/45\n"
    assert len(table.read_text().splitlines()) == 3


@pytest.mark.parametrize("times", [0, 2])
def test_an_exercise_has_one_answer_cell(copy, tmp_path, times):
    shutil.copytree(copy, tmp_path / "eve")
    answer(tmp_path / "eve", "1.E2", "harmless_rank = 10", times=2)
    sources = answers.cells(tmp_path / "eve" / "notebooks" / claims.NAMES[0])["1.E2"]
    reason = answers.grade(PROBLEMS["1.E2"], sources[:times], seed=0, seconds=20)
    assert reason == f"expected one answer cell, found {times}"


def test_only_cells_with_the_tag_are_answers(copy, tmp_path):
    shutil.copytree(copy, tmp_path / "eve")
    path = tmp_path / "eve" / "notebooks" / claims.NAMES[0]
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["metadata"].pop("tags", None)
    path.write_text(json.dumps(notebook))
    assert answers.cells(path) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such/folder"], "FOLDER must be a copy of the project"),
        (["/no/such/folder", "--copies"], "FOLDER must hold copies of the project"),
        (["--copies", "--results", "x"], "--results is of one copy"),
        (["--csv", str(PROJECT / "tests")], f"{PROJECT / 'tests'} cannot be written."),
        (["--feedback", __file__], f"{__file__} cannot be written."),
        (["--results", f"{__file__}/x.json"], f"{__file__} cannot be written."),
        (["--seconds", "0"], "--seconds must be at least 1, not 0."),
        (["--seed", "-1"], "--seed must be at least 0, not -1."),
        ([str(PROJECT / "figures"), "--copies"], "FOLDER must hold copies of the project"),
    ],
)
def test_a_bad_argument_is_one_sentence(capsys, arguments, said):
    assert grade.main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert printed.count("\n") == 1


def test_tensorflow_is_there_if_it_is_used():
    source = editions.solutions()["3.E4"].replace("np.sign(tangent)", "tf.sign(tangent).numpy()")
    assert "tf.sign" in source
    assert answers.grade(PROBLEMS["3.E4"], [source], seed=2, seconds=60) == ""
    writing = source.replace("left = G", "tf.print(G, output_stream='file://x'); left = G")
    assert "has no attribute 'print'" in answers.grade(PROBLEMS["3.E4"], [writing], 2, 60)


def test_tensors_are_handed_to_who_uses_numpy_alone():
    source = """def right_projection(x, dy, W, U, s, Vt):
    x, dy, Vt = x.numpy(), dy.numpy(), Vt.numpy()
    return x.T @ (dy @ Vt.T) @ Vt
"""
    assert answers.grade(PROBLEMS["3.E3"], [source], seed=2, seconds=60) == ""


def test_an_answer_learnt_from_one_seed_is_wrong_at_the_next():
    handed = [W for (W,) in exercises.handed("1.E5", seed=3)]
    known = {float(W[0, 0]): solutions.learned_directions(W) for W in handed}
    source = f"def learned_directions(W):\n    return {known}.get(float(W[0, 0]), 0)\n"
    assert answers.grade(PROBLEMS["1.E5"], [source], seed=3, seconds=60) == ""
    assert "expected" in answers.grade(PROBLEMS["1.E5"], [source], seed=4, seconds=60)


def test_cases_are_drawn_anew_unless_a_seed_is_given(copy, capsys):
    said = set()
    for _ in range(2):
        grade.main([str(copy)])
        said.add(capsys.readouterr().err)
    assert len(said) == 2


@pytest.mark.parametrize(("won", "code"), [(2, 0), (1, 1)])
def test_only_if_all_is_won_it_is_a_success(tmp_path, monkeypatch, won, code):
    (tmp_path / "ada").mkdir()
    grades = [grade.Grade(claims.NAMES[0], "1.E2", "", won, 2, "")]
    monkeypatch.setattr(grade, "grade", lambda folder, chosen: grades)
    assert grade.main([str(tmp_path)]) == grade.main([str(tmp_path), "--copies"]) == code


def test_a_notebook_is_a_file_of_its_copy(copy, tmp_path):
    for name in ("ada", "eve"):
        shutil.copytree(copy, tmp_path / name)
    chosen = SimpleNamespace(seed=1, seconds=20, run=False)
    stolen = tmp_path / "eve" / "notebooks" / claims.NAMES[0]
    stolen.unlink()
    stolen.symlink_to(tmp_path / "ada" / "notebooks" / claims.NAMES[0])
    (tmp_path / "eve" / "notebooks" / claims.NAMES[1]).unlink()
    os.mkfifo(tmp_path / "eve" / "notebooks" / claims.NAMES[1])
    grades = grade.grade(tmp_path / "eve", chosen)
    assert {g.reason for g in grades[:10]} == {"the notebook is no file of this copy"}
    assert sum(g.won for g in grade.grade(tmp_path / "ada", chosen)) == 2


def test_what_the_exercises_won_is_kept_if_the_notebooks_cannot_be_run(copy, monkeypatch):
    def failing(folder, timeout):
        raise OSError("no space")

    monkeypatch.setattr(claims, "run", failing)
    grades = grade.grade(copy, SimpleNamespace(seed=1, seconds=20, run=True, timeout=1))
    assert sum(g.won for g in grades) == 2
    assert [g.reason for g in grades[-3:]] == ["they could not be run: OSError: no space"] * 3


def test_a_name_that_is_no_unicode_costs_nobody_a_grade(copy, tmp_path, capsys):
    latin = os.fsdecode(str(tmp_path / "class").encode() + b"/M\xfcller")
    shutil.copytree(copy, latin)
    shutil.copytree(copy, tmp_path / "class" / "ada")
    options = ["--copies", "--csv", str(tmp_path / "grades.csv"), "--feedback", str(tmp_path)]
    assert grade.main([str(tmp_path / "class"), *options]) == 1
    assert "ada: 2/45" in capsys.readouterr().out
    assert "M\ufffdller,2,45" in (tmp_path / "grades.csv").read_text(encoding="utf-8")
    assert (tmp_path / "M\ufffdller.txt").exists()
