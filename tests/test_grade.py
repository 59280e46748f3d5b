import csv
import json
import os
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest

from helpers import PROJECT, svd
from tests.grading import answers, claims, exercises, grade
from tests.grading.problems import PROBLEMS

pytestmark = pytest.mark.skipif(exercises.resource is None, reason="the grader needs limits")
SOLUTIONS = str(exercises.SOLUTIONS)
PROJECTION = PROBLEMS["3.E2"]
RIGHT = """def project(X, U, Vt):
    return U @ (U.T @ X) + (X - U @ (U.T @ X)) @ Vt.T @ Vt
"""
WRONG = "def project(X, U, Vt):\n    return X\n"


def instead(code):
    """The wrong answer, with this in the place of its return."""
    return WRONG.replace("return X", code)


# What is refused before it runs, and why.
REFUSED = {
    "print": ("def print(*values):\n    pass\n" + WRONG, "line 1: expected imports and project"),
    "allclose": ("np.allclose = lambda *a, **k: True\n" + WRONG, "line 1: expected imports"),
    "a class": ("class Same(float): pass\n" + WRONG, "line 1: expected imports"),
    "atexit": ("import atexit\n" + WRONG, "line 1: it may import"),
    "atexit inside": (instead("import atexit"), "line 2: it may import"),
    "patched verdict": (instead("from tests.grading import problems"), "line 2: it may import"),
    "the solution": ("from tests.grading.solutions import project\n", "line 1: it may import"),
    "the copy": ("from mine import project\n", "line 1: it may import"),
    "its folder": ("from .mine import project\n", "line 1: it may import"),
    "another way in": (instead("return np.core.__builtins__"), "it may not use __builtins__"),
    "the frames around it": (instead("g = (g.gi_frame.f_back for _ in [0])"), "not use f_back"),
    "more than it was asked for": (WRONG + "print('3.E2: right')\n", "line 3: expected imports"),
    "a decorator": ("@print\n" + WRONG, "line 2: expected imports"),
    "a global": (instead("global np"), "line 2: it may not rebind"),
    "another name": ("def projected(X, U, Vt):\n    return X", "line 1: expected imports"),
    "imports alone": ("import math", "it does not define project"),
    "no Python": ("def project(X:", "line 1: "),
    "a magic": ("%load_ext x", "line 1: "),
    "a null byte": ("\0", "it is not Python"),
    "blank": (PROJECTION.blank + "\n", "not attempted"),
}
# What runs, in a process each, and wins nothing.
FORGED = {
    "patched modules": (
        instead(
            "np.allclose = np.linalg.norm = lambda *a, **k: 0.0; svd.decompose = None"
            "; svd.SVD.count = 1; return X"
        ),
        "expected nothing outside",
    ),
    "equal to all": (
        instead('return type("Same", (float,), {"__eq__": lambda *a: True, "__le__": all})()'),
        "expected finite numbers of shape (12, 9), found 0.0",
    ),
    "sys.exit": (instead("raise SystemExit(0)"), "SystemExit: 0, line 2"),
    "exit": (instead("exit()"), "SystemExit"),
    "too much memory": (instead("a = [0] * 2**29"), "expected at most 2 GiB of memory"),
    "the guard's own names": (
        instead(
            "m = np.f2py.sys.modules['__main__']; m.FORBIDDEN = ('none.',); m.LISTING = ('open',)"
            "; m.isinstance = m.realpath = m.set = lambda *a: True; m.os = m.json = np"
            f"; m.PermissionError = print; exec(open({SOLUTIONS!r}).read()); return X"
        ),
        "it may not open",
    ),
    "many lines": (instead("raise ValueError('a\\nb\\0' * 999)"), "ValueError: a b?a b?"),
    "nested": (instead("a = []\n    for _ in [0] * 5000: a = [a]\n    return a"), "RecursionError"),
    "a report of its own": (
        """def project(X, U, Vt):
    os = np.f2py.os
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b'{"failure": ""}')
        except OSError:
            pass
    os._exit(0)
""",
        "it ended Python",
    ),
}
# What the guard refuses while an answer runs, all tried in one process.
GUARDED = {
    f"open({SOLUTIONS!r}, 'a').write('#')": "it may not open",
    f"exec(open({SOLUTIONS!r}).read())": "it may not open",
    f"np.fromfile({SOLUTIONS!r}, dtype='u1')": "it may not open",
    "open('mine', 'w')": "it may not open",
    "np.f2py.subprocess.run(['true'])": "it may not call subprocess.Popen",
    "np.f2py.os.fork()": "it may not call os.fork",
    "np.f2py.os.system('true')": "it may not call os.system",
    "np.f2py.os.kill(np.f2py.os.getppid(), 9)": "it may not call os.kill",
    "np.f2py.sys.modules['resource'].setrlimit(0, (-1, -1))": "it may not call resource.setrlimit",
}
# What an answer may write in the place of its process' report.
REPORTS = {
    '{"failure": ""}': "it ended Python",
    '{"found": 3}': "it ended Python",
    '{"found": []}': "expected a value, found that project returned None",
    '{"found": [1, 2]}': "expected 3 values, found 2",
    '{"found": [{}, {}, {}]}': "expected finite numbers of shape (12, 9), found {}",
    '{"found": ["right", 1, 2]}': "expected finite numbers",
    '{"failure": "a\\nb\\u0000"}': "a b?",
    "[1]": "it ended Python",
    "": "it ended Python",
    "[" * 10**5: "it ended Python",
}


def graded(source, id="3.E2", seed=2):
    return answers.grade(PROBLEMS[id], [source], seed=seed, seconds=20)


def test_right_answers_score():
    counting = "    n = 0\n    def count():\n        nonlocal n\n        n += 1\n    count()\n"
    source = '"""By hand."""\nfrom scipy import linalg\nimport math, helpers.svd\nproject = 1\n'
    assert graded(source + RIGHT.replace("    return", counting + "    return")) == ""


@pytest.mark.parametrize("name", REFUSED)
def test_an_answer_cell_is_refused_before_it_runs(name, monkeypatch):
    monkeypatch.setattr(answers, "run", None)
    source, expected = REFUSED[name]
    reason = graded(source)
    assert expected in reason
    assert "\n" not in reason


@pytest.mark.parametrize("name", FORGED)
def test_a_forgery_wins_nothing(name):
    source, expected = FORGED[name]
    reason = graded(source)
    assert expected in reason
    assert "\n" not in reason
    assert len(reason) <= 300


def test_the_guard_refuses_files_and_processes():
    attempts = ", ".join(f"({said!r}, lambda: {code})" for code, said in GUARDED.items())
    source = f"""def project(X, U, Vt):
    refused = 0
    for said, attempt in [{attempts}]:
        try:
            attempt()
        except PermissionError as error:
            refused += said in str(error)
    raise ValueError(f"{{refused}} refused")
"""
    solutions = exercises.SOLUTIONS.read_bytes()
    assert graded(source).startswith(f"ValueError: {len(GUARDED)} refused")
    assert solutions == exercises.SOLUTIONS.read_bytes()


@pytest.mark.parametrize("report", REPORTS, ids=range(len(REPORTS)))
def test_a_forged_report_wins_nothing(report):
    assert REPORTS[report] in answers.judged(PROJECTION, report.encode(), seed=2)


def run(code, seconds, by_the_clock):
    asked = {"id": PROJECTION.id, "source": instead(code), "seed": 2, "seconds": seconds}
    return answers.run(asked, by_the_clock)


def test_an_endless_loop_is_ended():
    said = "it took more than 1 seconds"
    assert run("while True: pass", 1, 100) == (f"{said} of processor time", b"")
    assert run("while True: pass", 20, 1) == (said, b"")


def test_an_answer_writes_no_more_than_is_read():
    ended, content = run("return 'a' * 2**25", 20, 60)
    assert (ended, len(content)) == ("", answers.LARGEST)
    assert answers.judged(PROJECTION, content, seed=2).startswith("it ended Python")


def test_an_answer_by_heart_is_wrong_at_the_next_seed():
    exec(exercises.solutions()["1.E5"], known := {"np": np, "svd": svd})
    handed = [W for (W,) in exercises.handed("1.E5", seed=3)]
    right = [(float(W[0, 0]), known["learned_directions"](W)) for W in handed]
    # Another process computes W anew, and not to the last bit.
    source = f"""def learned_directions(W):
    return next((n for first, n in {right} if abs(W[0, 0] - first) < 1e-9), 0)
"""
    assert graded(source, "1.E5", seed=3) == ""
    assert "expected" in graded(source, "1.E5", seed=4)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the notebooks alone, with two exercises answered, one of them right."""
    folder = tmp_path_factory.mktemp("copies") / "ada"
    shutil.copytree(PROJECT / "notebooks", folder / "notebooks")
    answer(folder, "1.E2", exercises.solutions()["1.E2"])
    answer(folder, "3.E1", "def tangent_dimensions(n_in, n_out, D):\n    return D * (n_in + n_out)")
    return folder


def answer(folder, id, source):
    path = folder / "notebooks" / grade.notebook_of(id)
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if cell.metadata.get("exercise") == id]
    cell.source = source
    nbformat.write(notebook, path)


def test_a_copy_is_graded(copy, tmp_path):
    results, xml = tmp_path / "results.json", tmp_path / "junit.xml"
    command = [sys.executable, "-m", "tests.grading", copy, "--results", results, "--junit", xml]
    command += ["--seed", "5"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "seed 5" in done.stderr
    assert done.stdout.splitlines()[-1].split() == ["all", "notebooks", "2/45"]
    scores = json.loads(results.read_text())
    assert scores["score"] == 2
    tests = {test["number"]: test for test in scores["tests"]}
    assert [*tests] == [*PROBLEMS]
    assert (tests["1.E2"]["score"], tests["1.E2"]["max_score"]) == (2, 2)
    assert (tests["3.E1"]["score"], tests["3.E1"]["max_score"]) == (0, 1)
    assert tests["3.E1"]["output"].startswith("case 1 of 6: expected ")
    assert tests["2.E1"]["output"] == "not attempted"
    found = ElementTree.parse(xml)
    won = [int(each.get("value")) for each in found.findall(".//property[@name='won']")]
    assert (len(won), sum(won)) == (len(PROBLEMS), 2)
    assert len(found.findall(".//failure")) == len(PROBLEMS) - 1


def test_an_untouched_copy_scores_nothing_and_seeds_are_drawn(capsys):
    said = set()
    for _ in range(2):
        assert grade.main([]) == 1
        printed = capsys.readouterr()
        assert printed.out.splitlines()[-1].split() == ["all", "notebooks", "0/45"]
        said.add(printed.err)
    assert len(said) == 2


def test_a_bad_copy_costs_the_others_of_a_class_nothing(copy, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "class"
    shutil.copytree(copy, folder / "ada")
    shutil.copytree(copy / "notebooks", os.fsdecode(bytes(folder) + b"/M\xfcller"))  # they alone
    (folder / "eve").mkdir()
    for name, content in zip(claims.NAMES, ("{", '{"cells": [3]}'), strict=False):
        (folder / "eve" / name).write_text(content)
    for name in ("bad", ".ipynb_checkpoints", "__MACOSX"):
        (folder / name).mkdir()
    (folder / "a file").write_text("")
    original = grade.grade

    def failing(folder, *arguments):
        if folder.name == "bad":
            raise RuntimeError("no more space")
        return original(folder, *arguments)

    monkeypatch.setattr(grade, "grade", failing)
    table, feedback = tmp_path / "grades.csv", tmp_path / "feedback"
    options = ["--copies", "--csv", str(table), "--feedback", str(feedback)]
    assert grade.main([str(folder), *options]) == 1
    printed = capsys.readouterr()
    won = {"M\ufffdller": 2, "ada": 2, "bad": 0, "eve": 0}
    assert printed.out.splitlines() == [f"{name}: {n}/45" for name, n in won.items()]
    assert "[4 of 4] eve" in printed.err
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    for column in ("won", "1.E2"):
        assert {row["copy"]: int(row[column]) for row in rows} == won
    texts = {path.stem: path.read_text(encoding="utf-8") for path in feedback.iterdir()}
    assert texts.keys() == won.keys()
    assert "is not a notebook" in texts["eve"]
    assert "the notebook is missing" in texts["eve"]
    assert "it could not be graded: RuntimeError: no more space" in texts["bad"]
    assert "independent ways for U Vᵀ to change" in texts["ada"]


def test_an_exercise_has_one_answer_cell(copy, tmp_path):
    """Of its id, and with the tag."""
    path = copy / "notebooks" / claims.NAMES[0]
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if cell.metadata.get("exercise") == "1.E2"]
    notebook.cells.append(nbformat.v4.new_code_cell(cell.source, metadata=cell.metadata))
    for tags, found in ((["answer"], 2), ([], 0)):
        cell.metadata.tags = notebook.cells[-1].metadata.tags = tags
        nbformat.write(notebook, tmp_path / path.name)
        sources = answers.cells(tmp_path / path.name).get("1.E2", [])
        reason = answers.grade(PROBLEMS["1.E2"], sources, seed=0, seconds=20)
        assert reason == f"expected one answer cell, found {found}"


def test_a_notebook_is_a_file_of_its_copy(copy, tmp_path):
    notebooks = tmp_path / "eve" / "notebooks"
    notebooks.mkdir(parents=True)
    (notebooks / claims.NAMES[0]).symlink_to(copy / "notebooks" / claims.NAMES[0])
    os.mkfifo(notebooks / claims.NAMES[1])
    with open(notebooks / claims.NAMES[2], "wb") as file:
        file.truncate(grade.LARGEST + 1)
    reasons = [g.reason for g in grade.grade(tmp_path / "eve", seed=1, seconds=20)]
    assert set(reasons[:10]) == {"the notebook is not a file of this copy"}
    assert set(reasons[10:]) == {"the notebook is larger than 64 MiB"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such/folder"], "FOLDER must be a copy of the project"),
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


def test_a_system_without_limits_is_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr(exercises, "resource", None)
    assert grade.main([]) == 2
    assert capsys.readouterr().err.startswith("The grader needs Linux or macOS")
    exercises.check("3.E1", lambda n_in, n_out, D: D * (n_in + n_out - D))
    assert capsys.readouterr().out == "3.E1: right\n"


def test_it_is_a_success_if_all_points_are_won(tmp_path, monkeypatch):
    (tmp_path / "ada").mkdir()
    for won, code in ((2, 0), (1, 1)):
        grades = [grade.Grade(claims.NAMES[0], "1.E2", "", won, 2, "")]
        monkeypatch.setattr(grade, "grade", lambda *_, grades=grades: grades)
        assert grade.main([str(tmp_path)]) == grade.main([str(tmp_path), "--copies"]) == code


def test_claims_add_points_and_cost_no_exercise_its_own(copy, monkeypatch):
    def failing(folder, timeout):
        raise OSError("no space")

    monkeypatch.setattr(claims, "run", failing)
    grades = grade.grade(copy, seed=1, seconds=20, timeout=1)
    assert sum(g.won for g in grades) == 2
    assert [g.reason for g in grades[-3:]] == ["they could not be run: OSError: no space"] * 3
    outcomes = [(4, 4, ""), (3, 4, "1.2: "), (0, 4, "1.1: ")]
    monkeypatch.setattr(claims, "run", lambda *_: dict(zip(claims.NAMES, outcomes, strict=True)))
    monkeypatch.setattr(answers, "grade", lambda *_: "not now")
    assert [g.won for g in grade.grade(copy, seed=1, seconds=20, timeout=1)[-3:]] == [3, 2, 0]
