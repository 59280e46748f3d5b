"""The solutions score in full. The student's edition has none, and skips this."""

import importlib
import json
from types import SimpleNamespace

import pytest

from helpers import PROJECT
from tests import editions, grade
from tests.grading import exercises
from tests.grading.claims import NAMES
from tests.grading.problems import PROBLEMS

pytestmark = pytest.mark.skipif(not editions.SOLUTIONS.exists(), reason="the student's edition")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editions") / "new"
    assert editions.main([str(folder)]) == 0
    return folder


def test_every_exercise_has_a_solution():
    assert [*editions.solutions()] == [*PROBLEMS]


@pytest.mark.parametrize("id", PROBLEMS)
def test_it_is_right_whatever_it_is_handed(id):
    problem, solved = PROBLEMS[id], importlib.import_module("tests.solutions")
    for seed in (1, 2):
        found = exercises.answers(problem, getattr(solved, problem.name), seed)
        plain = [exercises.from_plain(exercises.to_plain(value)) for value in found]
        assert exercises.judge(problem, plain, seed) == ""


def test_the_solved_edition_scores_in_full(written):
    chosen = SimpleNamespace(seed=3, seconds=60, run=False)
    grades = grade.grade(written / "solved", chosen)
    assert [g.reason for g in grades] == [""] * len(PROBLEMS)
    assert sum(g.won for g in grades) == sum(g.possible for g in grades) == 45


def test_the_solved_edition_says_right_below_each_answer(written):
    for name in NAMES:
        text = (written / "solved" / "notebooks" / name).read_text(encoding="utf-8")
        printed = [cell for cell in json.loads(text)["cells"] if "exercises.check" in str(cell)]
        for id in [id for id in PROBLEMS if grade.notebook_of(id) == name]:
            assert f'"{id}: right\\n"' in text
        assert len(printed) == 5
        assert "not attempted" not in text


def test_the_students_edition_is_this_project_without_solutions(written):
    student, solved = written / "student", written / "solved"
    files, more = ({p.relative_to(e) for p in e.rglob("*")} for e in (student, solved))
    left_out = {f"tests/{name}" for name in ("solutions.py", "test_exercises.py", "test_grade.py")}
    assert {str(path) for path in more - files} == left_out
    assert (student / ".gitignore").exists()
    assert not (student / ".git").exists()
    for path in files:
        if (student / path).is_file():
            assert (student / path).read_bytes() == (PROJECT / path).read_bytes()


def test_editions_are_written_where_nothing_is(tmp_path, capsys):
    (tmp_path / "notes").write_text("")
    for folder in (tmp_path, tmp_path / "notes", PROJECT / "editions"):
        assert editions.main([str(folder)]) == 2
        assert capsys.readouterr().err.startswith("FOLDER must ")
