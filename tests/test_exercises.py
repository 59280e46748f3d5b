"""The exercises: right answers, wrong ones, and the editions that hold solutions or blanks."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest

from helpers import PROJECT, svd
from tests.grading import answering, editions, exercises, grade, solutions
from tests.grading.claims import NAMES
from tests.grading.grade import notebook_of
from tests.grading.problems import PROBLEMS, Wrong

ORDER = [*PROBLEMS]


def verdict(id, answer, seed=1):
    problem = PROBLEMS[id]
    try:
        return exercises.judge(problem, exercises.answers(problem, answer, seed), seed)
    except Wrong as wrong:
        return str(wrong)


def test_each_notebook_asks_its_exercises_in_order():
    for name in NAMES:
        cells = nbformat.read(PROJECT / "notebooks" / name, as_version=4).cells
        cells = [cell for cell in cells if cell.cell_type == "code"]
        asked = [i for i, cell in enumerate(cells) if "answer" in cell.metadata.get("tags", [])]
        mine = [id for id in ORDER if notebook_of(id) == name]
        assert [cells[i].metadata.exercise for i in asked] == mine
        assert len(mine) == 5
        for i, problem in zip(asked, map(PROBLEMS.get, mine), strict=True):
            points = f"{problem.points} point" + "s" * (problem.points > 1)
            check = f"# exercise {problem.id} ({points}): {problem.title}\n"
            assert cells[i].source == problem.blank
            assert cells[i + 1].source == f'{check}exercises.check("{problem.id}", {problem.name})'


@pytest.mark.parametrize("id", ORDER)
def test_solutions_are_right_and_blanks_are_not_tried(id, capsys):
    assert verdict(id, getattr(solutions, PROBLEMS[id].name)) == ""
    exec(PROBLEMS[id].blank, names := {})
    exercises.check(id, names[PROBLEMS[id].name])
    assert capsys.readouterr().out == f"{id}: not attempted\n"


def test_an_answer_may_come_as_another_type():
    for id in ("1.E3", "1.E4", "3.E1", "3.E4"):
        right = getattr(solutions, PROBLEMS[id].name)
        assert verdict(id, lambda *handed, right=right: np.array(right(*handed), "float32")) == ""
    lists = changed(solutions.move_bias, lambda a, b: [a.tolist(), b.tolist()])
    assert verdict("2.E1", lists) == ""
    assert "whole number from 1 to 4, found True" in verdict("1.E1", lambda s, share: True)
    assert "whole number from 1 to 4, found 1.5" in verdict("1.E1", lambda s, share: 1.5)


def changed(solution, change):
    """The solution, its parts changed."""
    return lambda *handed: change(*solution(*handed))


def by_price(price, worth=lambda s: s):
    """The solution, for other prices and other values."""
    return lambda spectra, shapes, rise: solutions.cheapest_ranks(
        [worth(s) for s in spectra], [(price(shape), 0) for shape in shapes], rise
    )


def by_norm(h, T, k):
    return np.argsort(-h.std(0))[:k]


def alone(h, T, k):
    """By what each neuron explains without the others."""
    h, T = h - h.mean(0), T - T.mean(0)
    return np.argsort(-np.sum((h.T @ T) ** 2, axis=1) / (np.sum(h**2, axis=0) + 1))[:k]


def beyond_the_edge(W, times=1.1):
    return int(np.sum(svd.decompose(W).s > times * svd.noise_edge(W.shape, W.std())))


def cut(choose, refit=True, more=0):
    """Neurons so chosen; the next layer fitted, or not."""

    def answer(x, W, b, V, c, budget):
        k = (budget - len(c)) // (len(W) + 1 + len(c)) + more
        h = np.maximum(x @ W + b, 0)
        kept = choose(h, h @ V, k)
        if not refit:
            return W[:, kept], b[kept], V[kept], c
        fitted = np.linalg.lstsq(h[:, kept], h @ V, rcond=None)[0]
        return W[:, kept], b[kept], fitted, c

    return answer


def always(derivative):
    """Training by one derivative, whatever was asked for."""
    return lambda *handed: solutions.train_truncated(*handed[:-1], derivative)


WRONG = {
    "1.E1": [
        lambda s, share: int(np.argmax(np.cumsum(s**2) / np.sum(s**2) > share)) + 1,
        lambda s, share: int(np.argmax(np.cumsum(s) / np.sum(s) >= share)) + 1,
    ],
    "1.E2": [
        lambda W, x, D: svd.truncate(svd.decompose(W), D),
        lambda W, x, D: solutions.truncate_for_inputs(W, x, D + 1),
    ],
    "1.E3": [
        by_price(lambda shape: 1),
        by_price(sum, np.sqrt),
        lambda spectra, shapes, rise: solutions.cheapest_ranks(spectra, shapes, 1.2 * rise),
        lambda spectra, shapes, rise: solutions.cheapest_ranks(spectra, shapes, rise / 2),
    ],
    "1.E4": [
        by_norm,
        alone,
        lambda h, T, k: solutions.choose_neurons(np.vstack([h, -h]), np.vstack([T, -T]), k),
        lambda h, T, k: solutions.choose_neurons(h, h, k),
        lambda h, T, k: solutions.choose_neurons(h, T, 1) * k,
    ],
    "1.E5": [beyond_the_edge, lambda W: beyond_the_edge(W, 1.0)],
    "2.E1": [
        lambda a, Vt, b: (a, b),
        lambda a, Vt, b: (a + Vt @ b, b - Vt @ b @ Vt),  # as if the rows were orthonormal
        lambda a, Vt, b: (a, 0 * b),
    ],
    "2.E2": [
        lambda x, dy, U, Vt: (x.T @ (dy @ Vt.T), x.T[:3] @ dy),
        lambda x, dy, U, Vt: (x.T @ (dy @ Vt.T) / len(x), (x @ U).T @ dy / len(x)),
    ],
    "2.E3": [
        lambda A, B: (np.linalg.qr(A)[0], np.ones(3), np.linalg.qr(B.T)[0].T),
        changed(solutions.svd_of_product, lambda U, s, Vt: (U[:, ::-1], s[::-1], Vt[::-1])),
    ],
    "2.E4": [
        changed(solutions.fine_tune_layer, lambda U, Vt, kept: (U, Vt, 1.0)),
    ],
    "2.E5": [
        cut(by_norm),
        cut(alone),
        cut(solutions.choose_neurons, refit=False),
        cut(solutions.choose_neurons, more=1),
        lambda x, W, b, V, c, budget: (W[:, :0], b[:0], V[:0], c),
    ],
    "3.E1": [
        lambda n_in, n_out, D: D * (n_in + n_out),
        lambda n_in, n_out, D: D * (n_in + n_out + 1 - D),
    ],
    "3.E2": [
        lambda X, U, Vt: X,
        lambda X, U, Vt: U @ (U.T @ X @ Vt.T) @ Vt,
        lambda X, U, Vt: U @ (U.T @ X) + X @ Vt.T @ Vt,
    ],
    "3.E3": [
        lambda x, dy, W, U, s, Vt: x.numpy().T @ dy.numpy(),
        lambda x, dy, W, U, s, Vt: solutions.values_alone(x, dy, W, U * s, s, Vt),
        lambda x, dy, W, U, s, Vt: 2 * solutions.values_alone(x, dy, W, U, s, Vt),
        lambda x, dy, W, U, s, Vt: U.numpy() @ (U.numpy().T @ x.numpy().T @ dy.numpy()),
    ],
    "3.E4": [
        lambda T, M, U, Vt: solutions.steps_outside(T, M / 0.9, U, Vt),
        lambda T, M, U, Vt: solutions.steps_outside(T, M, U, Vt)[::-1],
        changed(solutions.steps_outside, lambda sgd, momentum, adam: (sgd, momentum, adam**2)),
    ],
    "3.E5": [
        always("straight_through"),
        always("tangent"),
        changed(solutions.train_truncated, lambda W, gaps: (np.array([W[1], *W[1:]]), gaps)),
        changed(solutions.train_truncated, lambda W, gaps: (W, 0 * gaps)),
    ],
}


@pytest.mark.parametrize("id", ORDER)
def test_what_is_wrong_is_not_right_and_hears_what_was_expected(id):
    for answer in WRONG[id]:
        reason = verdict(id, answer)
        assert "expected" in reason
        assert len(reason) < 200
        assert "\n" not in reason


VALUES = [None, 0, 10**4000, 1e400, "text", [], [[]], [None, 1], [1, 2], np.ones(3), [[1], [2, 3]]]


@pytest.mark.parametrize("id", ORDER)
def test_any_value_has_a_verdict(id):
    problem = PROBLEMS[id]
    case = problem.cases(np.random.default_rng(1))[0]
    for value in VALUES:
        with pytest.raises(Wrong, match=r"^expected .*, found"):
            problem.verdict(exercises.to_plain(value), *case)


def test_an_answer_cannot_change_other_cases_or_the_verdict():
    def spoil(s, share):
        rank = solutions.rank_for_energy(s, share)
        s[:] = 0
        return rank

    assert verdict("1.E1", spoil) == ""
    first, again, other = (exercises.handed("1.E1", seed)[-1][0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# What a check says about a wrong answer.
SAID = [
    ("1.E1", lambda s, share: {1, 2}, "expected numbers"),
    ("1.E1", lambda s, share: print(end=""), "_energy returned None: is a `return` missing?"),
    ("1.E1", lambda s: 1, "expected rank_for_energy(s, share), found rank_for_energy(s)\n"),
    ("1.E1", 5, "expected rank_for_energy(s, share), found no function\n"),
    ("1.E1", WRONG["1.E1"][0], "the smallest rank, but one less keeps 0.2500 >= 0.25"),
    ("2.E2", WRONG["2.E2"][0], "expected dVt to give a change of the loss of "),
    ("2.E5", cut(solutions.choose_neurons, more=1), "parameters or fewer, found "),
    ("3.E5", always("tangent"), "expected G of step 1, of rank 8, to give a change of the loss of"),
    ("3.E5", changed(solutions.train_truncated, lambda W, g: (W[1:], g)), "of shape (80, 16, 12)"),
]


@pytest.mark.parametrize(("id", "answer", "said"), SAID, ids=range(len(SAID)))
def test_a_check_says_what_is_wrong(id, answer, said, capsys):
    exercises.check(id, answer)
    assert said in capsys.readouterr().out


def test_hints_come_step_by_step(capsys):
    for id in ORDER:
        for _ in range(4):
            exercises.hint(id)
        *steps, last, again = capsys.readouterr().out.splitlines()
        assert steps[0].startswith(f"{id}, hint 1 of ")
        assert len({*steps, last}) >= 2
        assert last == again


def test_a_solution_is_shown_to_who_has_passed(capsys, monkeypatch):
    assert [*exercises.solutions()] == ORDER
    monkeypatch.setattr(exercises, "passed", set())
    exercises.check("1.E2", WRONG["1.E2"][0])
    exercises.solution("1.E2")
    assert "shown when the check has said that yours is right" in capsys.readouterr().out
    exercises.check("1.E2", solutions.truncate_for_inputs)
    exercises.solution("1.E2")
    assert f"1.E2: right\n{exercises.solutions()['1.E2']}\n" == capsys.readouterr().out
    monkeypatch.setattr(exercises, "SOLUTIONS", PROJECT / "none")
    exercises.solution("1.E2")
    assert "the student's edition has no solutions" in capsys.readouterr().out


def test_what_is_handed_is_shown_by_names_and_shapes():
    said = "a list of 6 cases, each a tuple: (spectra, shapes, rise)\n[0]: spectra of shapes [(50,)"
    assert repr(exercises.handed("1.E3")).startswith(said)
    tensors = "\n[1]: x (8, 7), dy (8, 11), W (7, 11), U (7, 2), s (2,), Vt (2, 11)"
    assert repr(exercises.handed("3.E3")).endswith(tensors)


def test_a_check_bounds_the_memory(capsys):
    if not (before := exercises.limit_memory()):
        pytest.skip("no limits on this system")
    exercises.resource.setrlimit(exercises.resource.RLIMIT_AS, before)
    for id, matrix, answer in (
        ("3.E2", "n_in × n_in", lambda X, U, Vt: np.eye(len(X)) @ X),
        ("2.E3", "n_in × n_out", lambda A, B: np.linalg.svd(A @ B, full_matrices=False)),
        ("2.E2", "n_in × n_out", lambda x, dy, U, Vt: x.T @ dy),
    ):
        exercises.check(id, answer)
        said = f"expected at most 2 GiB of memory, found that it formed a matrix of {matrix}, or"
        assert said in capsys.readouterr().out
    assert exercises.resource.getrlimit(exercises.resource.RLIMIT_AS) == before


def test_a_limit_is_never_below_what_the_process_has(monkeypatch):
    resource = exercises.resource or pytest.skip("no limits on this system")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, 5))
    monkeypatch.delattr(resource, "setrlimit")
    assert exercises.limit_memory() is None


def test_numbers_text_and_arrays_come_back_and_nothing_else_does():
    values = [None, True, 3, 2.5, "text", [1, [2, "a"]], []]
    assert exercises.to_plain(values) == values
    for dtype in ("float16", "float64", "longdouble", "int8"):
        array = np.arange(6).reshape(2, 3).astype(dtype)
        plain = json.loads(json.dumps(exercises.to_plain((array, array[0, 1]))))
        assert plain == [[[0, 1, 2], [3, 4, 5]], 1]
    for value in (object(), {1: 2}, np.array(["a"]), 1j, np.array([None])):
        with pytest.raises(Wrong, match="expected numbers"):
            exercises.to_plain(value)


def test_answers_find_the_arithmetic_of_tensorflow():
    assert answering.names("the tfs", tensors=False).keys() == {"np", "svd"}
    for used in ({"source": "tf.sign", "tensors": False}, {"source": "", "tensors": True}):
        tf = answering.names(**used)["tf"]
        assert tf.sign(-2.0) == -1
        assert tf.linalg.norm([3.0, 4.0]) == 5
        assert not any(hasattr(tf, name) for name in ("print", "io", "py_function", "load_library"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editions") / "new"
    assert editions.main([str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_the_solved_edition_scores_in_full(written):
    grades = grade.grade(written / "solved", seed=3, seconds=60)
    assert [g.reason for g in grades] == [""] * len(PROBLEMS)
    assert sum(g.won for g in grades) == sum(g.possible for g in grades) == 45


def test_the_solved_edition_says_right_below_each_answer(written):
    for name in NAMES:
        text = (written / "solved" / "notebooks" / name).read_text(encoding="utf-8")
        assert all(text.count(f'"{id}: right\\n"') == (notebook_of(id) == name) for id in ORDER)
        assert "not attempted" not in text


def test_the_students_edition_is_this_project_without_solutions(written):
    student, solved = written / "student", written / "solved"
    files, more = ({p.relative_to(e) for p in e.rglob("*")} for e in (student, solved))
    assert (student / "tests/grading/hints.md").exists()
    left_out = {"tests/grading/solutions.py", "tests/test_exercises.py", "tests/test_grade.py"}
    assert {str(path) for path in more - files} == left_out
    assert not (student / ".git").exists()
    for path in filter(Path.is_file, student.rglob("*")):
        assert path.read_bytes() == (PROJECT / path.relative_to(student)).read_bytes()
    for path in student.rglob("test_*.py"):
        assert "grading.solutions" not in path.read_text(encoding="utf-8")


def test_editions_are_written_where_nothing_is(tmp_path, capsys):
    (tmp_path / "notes").write_text("")
    for folder in (tmp_path, tmp_path / "notes", PROJECT / "editions"):
        assert editions.main([str(folder)]) == 2
        assert capsys.readouterr().err.startswith("FOLDER must ")
