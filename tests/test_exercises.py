"""The exercises: right answers, wrong ones, and the editions that hold solutions or blanks."""

import json

import nbformat
import numpy as np
import pytest

from helpers import PROJECT, svd
from tests.grading import answering, editions, exercises, grade, solutions
from tests.grading.claims import NAMES
from tests.grading.grade import CLAIMS, notebook_of
from tests.grading.problems import PROBLEMS, Wrong

ORDER = [*PROBLEMS]


def verdict(id, answer, seed=1):
    problem = PROBLEMS[id]
    try:
        return exercises.judge(problem, exercises.answers(problem, answer, seed), seed)
    except Wrong as wrong:
        return str(wrong)


def cells_of(name):
    return nbformat.read(PROJECT / "notebooks" / name, as_version=4).cells


def test_each_notebook_asks_its_exercises_in_order():
    for name in NAMES:
        cells = [cell for cell in cells_of(name) if cell.cell_type == "code"]
        asked = [i for i, cell in enumerate(cells) if "answer" in cell.metadata.get("tags", [])]
        ids = [cells[i].metadata.exercise for i in asked]
        assert ids == [id for id in ORDER if notebook_of(id) == name]
        assert 4 <= len(ids) <= 5
        for i, id in zip(asked, ids, strict=True):
            problem = PROBLEMS[id]
            points = f"{problem.points} point" + "s" * (problem.points > 1)
            check = f"# exercise {id} ({points}): {problem.title}\n"
            assert cells[i + 1].source == check + f'exercises.check("{id}", {problem.name})'


def test_the_committed_notebooks_are_the_students_edition():
    for name in NAMES:
        cells = [cell for cell in cells_of(name) if "answer" in cell.metadata.get("tags", [])]
        for cell in cells:
            assert cell.source == PROBLEMS[cell.metadata.exercise].blank


def test_the_points_are_for_what_the_student_did():
    points = [problem.points for problem in PROBLEMS.values()]
    assert sum(points) >= 4 * CLAIMS * len(NAMES)
    for name in NAMES:
        mine = [problem.points for id, problem in PROBLEMS.items() if notebook_of(id) == name]
        assert mine == sorted(mine)
        assert mine[-1] > mine[0]


@pytest.mark.parametrize("id", ORDER)
def test_what_is_blank_is_not_tried(id, capsys):
    names = {}
    exec(PROBLEMS[id].blank, names)
    exercises.check(id, names[PROBLEMS[id].name])
    assert capsys.readouterr().out == f"{id}: not attempted\n"


@pytest.mark.parametrize("id", ORDER)
def test_solutions_are_right(id):
    assert verdict(id, getattr(solutions, PROBLEMS[id].name)) == ""


def test_an_answer_may_come_as_another_type():
    assert verdict("1.E2", 10.0) == verdict("2.E1", np.float32(9)) == ""
    assert "whole number from 1 to 4, found True" in verdict("1.E1", lambda s, share: True)
    assert verdict("1.E4", lambda *handed: np.array(solutions.cheapest_ranks(*handed))) == ""
    assert verdict("3.E4", lambda *handed: np.array(solutions.steps_outside(*handed))) == ""


def outside(A, U, Vt):
    return A - U @ (U.T @ A) - (A - U @ (U.T @ A)) @ Vt.T @ Vt


def share_outside(step, U, Vt):
    return np.linalg.norm(outside(step, U, Vt)) / np.linalg.norm(step)


def regressed(x, z, U, Vt):
    """The best factors of all, and a measurement that was not made."""
    B, D = np.linalg.lstsq(x, z, rcond=None)[0], len(Vt)
    Vt = svd.decompose(x @ B).Vt[:D]
    return B @ Vt.T, Vt, 1.0


def ascending(A, B):
    U, s, Vt = np.linalg.svd(np.linalg.qr(A)[1] @ B, full_matrices=False)
    return (np.linalg.qr(A)[0] @ U)[:, ::-1], s[::-1], Vt[::-1]


def trained(x, z, W, ranks, rate, derivative, always="straight_through"):
    """By one derivative, whatever was asked for."""
    matrices, gaps = [W], []
    for D in ranks:
        U, s, Vt = svd.decompose(W)
        G = x.T @ (x @ svd.truncate((U, s, Vt), D) - z) / len(x)
        if always == "tangent":
            G = G - outside(G, U[:, :D], Vt[:D])
        W = W - rate * G
        s = svd.decompose(W).s
        matrices.append(W)
        gaps.append(svd.gap(s, D) / s[D - 1])
    return np.array(matrices), np.array(gaps)


def from_its_first_step(matrices, gaps):
    return np.array([matrices[1], *matrices[1:]]), gaps


def by_price_alone(spectra, shapes, rise):
    """Whole layers, the cheapest first."""
    ranks = [1] * len(spectra)
    for layer in np.argsort([sum(shape) for shape in shapes]):
        while ranks[layer] < len(spectra[layer]):
            if sum(np.sum(s[D:] ** 2) / 2 for s, D in zip(spectra, ranks, strict=True)) <= rise:
                return ranks
            ranks[layer] += 1
    return ranks


def greedy(worth):
    """One singular value at a time, of the layer in which its worth is the largest."""

    def ranks_of(spectra, shapes, rise):
        ranks = [1] * len(spectra)
        while sum(np.sum(s[D:] ** 2) / 2 for s, D in zip(spectra, ranks, strict=True)) > rise:
            offers = [
                worth(s[D], shape) if D < len(s) else 0
                for s, D, shape in zip(spectra, ranks, shapes, strict=True)
            ]
            ranks[int(np.argmax(offers))] += 1
        return ranks

    return ranks_of


def equal_ranks(spectra, shapes, rise):
    return next(
        [min(D, len(s)) for s in spectra]
        for D in range(1, 200)
        if sum(np.sum(s[D:] ** 2) / 2 for s in spectra) <= rise
    )


def beyond_the_edge(W, times=1.1):
    return int(np.sum(svd.decompose(W).s > times * svd.noise_edge(W.shape, W.std())))


def by_heart(W):
    """As many as the cases of one seed hold, told apart by their shapes."""
    s = svd.decompose(W).s
    many = 12 if s[0] > 2 * s[20] else 0
    return {(300, 200): 3, (300, 300): 1, (400, 150): 8}.get(W.shape, many)


WRONG = {
    "1.E1": [
        lambda s, share: int(np.argmax(np.cumsum(s**2) / np.sum(s**2) > share)) + 1,
        lambda s, share: int(np.argmax(np.cumsum(s) / np.sum(s) >= share)) + 1,
        lambda s, share: int(np.argmax(np.cumsum(s**2) / np.sum(s**2) >= share)),
        lambda s, share: int(np.argmax(np.cumsum(s**2) / np.sum(s**2) >= share)) + 2,
        lambda s, share: len(s) + 1,
        lambda s, share: "all",
        lambda s, share: True,
    ],
    "1.E2": [9, 11, 1024, 10.5, np.inf, "10", [10]],
    "1.E3": [
        lambda W, x, D: svd.truncate(svd.decompose(W), D),
        lambda W, x, D: svd.truncate(svd.decompose(W, x.T @ x), D + 1),
        lambda W, x, D: W,
        lambda W, x, D: svd.truncate(svd.decompose(x @ W), D),
        lambda W, x, D: W * np.nan,
    ],
    "1.E4": [
        equal_ranks,
        by_price_alone,
        greedy(lambda s, shape: s**2),
        greedy(lambda s, shape: s / sum(shape)),
        greedy(lambda s, shape: s**2 / np.prod(shape)),
        lambda spectra, shapes, rise: solutions.cheapest_ranks(spectra, shapes, 1.2 * rise),
        lambda spectra, shapes, rise: [1] * 5,
        lambda spectra, shapes, rise: [len(s) for s in spectra],
        lambda spectra, shapes, rise: [0] * 5,
        lambda spectra, shapes, rise: 20,
    ],
    "1.E5": [
        beyond_the_edge,
        lambda W: beyond_the_edge(W, 1.0),
        lambda W: 3,
        by_heart,
        lambda W: int(np.sum(svd.decompose(W).s > 1)),
    ],
    "2.E1": [8, 10, 0, 9.5],
    "2.E2": [
        lambda U, a, Vt, b: (U @ Vt, b),
        lambda U, a, Vt, b: (U @ Vt, a @ Vt),
        lambda U, a, Vt, b: (U @ Vt + a @ Vt, b),
        lambda U, a, Vt, b: (U, Vt),
        lambda U, a, Vt, b: U @ Vt,
    ],
    "2.E3": [
        lambda A, B: (np.linalg.qr(A)[0], np.ones(3), np.linalg.qr(B.T)[0].T),
        lambda A, B: (A, np.ones(3), B),
        ascending,
    ],
    "2.E4": [
        lambda x, dy, U, Vt: (x.T @ (dy @ Vt.T), x.T[:3] @ dy),
        lambda x, dy, U, Vt: (x.T @ (dy @ Vt.T) / len(x), (x @ U).T @ dy / len(x)),
        lambda x, dy, U, Vt: (0 * U, 0 * Vt),
        lambda x, dy, U, Vt: (U, Vt),
    ],
    "2.E5": [
        regressed,
        lambda x, z, U, Vt: (U, Vt, 1.0),
        lambda x, z, U, Vt: (U, np.linalg.lstsq(x @ U, z, rcond=None)[0], 1.0),
        lambda x, z, U, Vt: (np.linalg.lstsq(x, z, rcond=None)[0], np.eye(z.shape[1]), 1.0),
    ],
    "3.E1": [124, 126, 139, 192],
    "3.E2": [
        lambda X, U, Vt: X,
        lambda X, U, Vt: U @ (U.T @ X),
        lambda X, U, Vt: U @ (U.T @ X @ Vt.T) @ Vt,
        lambda X, U, Vt: U @ (U.T @ X) + X @ Vt.T @ Vt,
        lambda X, U, Vt: outside(X, U, Vt),
    ],
    "3.E3": [
        lambda x, dy, W, U, s, Vt: x.numpy().T @ dy.numpy(),
        lambda x, dy, W, U, s, Vt: U.numpy() @ (U.numpy().T @ x.numpy().T @ dy.numpy()),
        lambda x, dy, W, U, s, Vt: 2 * (x.numpy().T @ dy.numpy() @ Vt.numpy().T) @ Vt.numpy(),
    ],
    "3.E4": [
        lambda G, U, Vt: (0.0, 0.0),
        lambda G, U, Vt: (0.5, share_outside(np.sign(G - outside(G, U, Vt)), U, Vt)),
        lambda G, U, Vt: (share_outside(G, U, Vt), share_outside(G, U, Vt)),
        lambda G, U, Vt: (0.0, share_outside(np.sign(G), U, Vt)),
    ],
    "3.E5": [
        trained,
        lambda *handed: from_its_first_step(*solutions.train_truncated(*handed)),
        lambda *handed: trained(*handed, always="tangent"),
        lambda *handed: (trained(*handed, always=handed[-1])[0], np.zeros(len(handed[3]))),
        lambda x, z, W, ranks, *_: (np.array([W] * (len(ranks) + 1)), np.zeros(len(ranks))),
        lambda x, z, W, ranks, rate, derivative: trained(x, z, W, ranks, 2 * rate, derivative),
    ],
}


@pytest.mark.parametrize("id", ORDER)
def test_what_is_wrong_is_not_right_and_hears_what_was_expected(id):
    for answer in WRONG[id]:
        reason = verdict(id, answer)
        assert "expected" in reason
        assert len(reason) < 200
        assert "\n" not in reason


VALUES = [0, -1, 10**4000, 1e400, "text", [], [[]], [None, 1], [1, 2], np.ones(3), [[1], [2, 3]]]


@pytest.mark.parametrize("id", ORDER)
def test_any_value_has_a_verdict(id):
    problem = PROBLEMS[id]
    case = problem.cases(np.random.default_rng(1))[0] if problem.cases else ()
    for value in VALUES:
        with pytest.raises(Wrong, match=r"^expected .*, found"):
            problem.verdict(exercises.to_plain(value), *case)


def test_an_answer_cannot_change_other_cases_or_the_verdict():
    def spoil(s, share):
        rank = int(np.argmax(np.cumsum(s**2) / np.sum(s**2) >= share)) + 1
        s[:] = 0
        return rank

    before = exercises.handed("1.E1")[-1][0].copy()
    assert verdict("1.E1", spoil) == ""
    assert np.array_equal(exercises.handed("1.E1")[-1][0], before)
    assert not np.array_equal(exercises.handed("1.E1", seed=1)[-1][0], before)


def test_what_only_the_verdict_may_see_is_not_handed():
    assert all(len(case) == 1 for case in exercises.handed("1.E5"))


def test_a_check_says_what_is_wrong(capsys):
    def said(id, answer):
        exercises.check(id, answer)
        return capsys.readouterr().out

    assert "expected fewer multiply-adds than 805,306,368, found 807,9" in said("3.E1", 126)
    assert "expected numbers" in said("1.E1", lambda s, share: {1, 2})
    assert "found None: is its `return` missing?" in said("1.E1", lambda s, share: print(end=""))
    few = "expected rank_for_energy(s, share), found "
    assert few + "rank_for_energy(s)\n" in said("1.E1", lambda s: 1)
    assert few + "rank_for_energy(s, share, more)\n" in said("1.E1", lambda s, share, more: 1)
    assert few + "no function\n" in said("1.E1", 5)
    assert "expected numbers or arrays of them, found function" in said("1.E2", lambda: 10)
    short = "expected finite numbers of shape (81, 16, 12), found an array of shape (80, 16, 12)"
    assert short in said("3.E5", lambda *handed: (np.ones((80, 16, 12)), np.ones(80)))


def test_a_check_bounds_the_memory(capsys):
    if not (before := exercises.limit_memory()):
        pytest.skip("no limits on this system")
    exercises.resource.setrlimit(exercises.resource.RLIMIT_AS, before)
    for id, answer in {
        "3.E2": lambda X, U, Vt: np.eye(len(X)) @ X,
        "2.E3": lambda A, B: np.linalg.svd(A @ B, full_matrices=False),
        "2.E4": lambda x, dy, U, Vt: ((x.T @ dy) @ Vt.T, U.T @ (x.T @ dy)),
    }.items():
        exercises.check(id, answer)
        assert "expected at most 2 GiB of memory, found that it" in capsys.readouterr().out
    assert exercises.resource.getrlimit(exercises.resource.RLIMIT_AS) == before


@pytest.mark.parametrize("hard", [5, 2**60])
def test_a_limit_is_never_below_what_the_process_has(monkeypatch, hard):
    given = []
    resource = exercises.resource or pytest.skip("no limits on this system")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: given.append(limits))
    exercises.limit_memory()
    assert all(exercises.MEMORY < soft < 2**50 for soft, _ in given)


@pytest.mark.parametrize("value", [None, True, 3, 2.5, "text", [1, [2, "a"]], ()])
def test_plain_values_come_back(value):
    back = json.loads(json.dumps(exercises.to_plain(value)))
    assert back == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("dtype", ["float16", "float64", "longdouble", "int8"])
def test_arrays_come_back_as_lists(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    assert json.dumps(exercises.to_plain((array, array[0, 1])))
    assert exercises.to_plain(array) == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("value", [object(), {1: 2}, np.array(["a"]), 1j, np.array([None])])
def test_only_numbers_and_text_are_plain(value):
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


def test_every_exercise_has_a_solution():
    assert [*editions.solutions()] == ORDER


@pytest.mark.slow
def test_the_solved_edition_scores_in_full(written):
    grades = grade.grade(written / "solved", seed=3, seconds=60)
    assert [g.reason for g in grades] == [""] * len(PROBLEMS)
    assert sum(g.won for g in grades) == sum(g.possible for g in grades) == 45


def test_the_solved_edition_says_right_below_each_answer(written):
    for name in NAMES:
        text = (written / "solved" / "notebooks" / name).read_text(encoding="utf-8")
        printed = [cell for cell in json.loads(text)["cells"] if "exercises.check" in str(cell)]
        for id in [id for id in ORDER if notebook_of(id) == name]:
            assert f'"{id}: right\\n"' in text
        assert len(printed) == 5
        assert "not attempted" not in text


def test_the_students_edition_is_this_project_without_solutions(written):
    student, solved = written / "student", written / "solved"
    files, more = ({p.relative_to(e) for p in e.rglob("*")} for e in (student, solved))
    left_out = {"tests/grading/solutions.py", "tests/test_exercises.py", "tests/test_grade.py"}
    assert {str(path) for path in more - files} == left_out
    assert (student / ".gitignore").exists()
    assert not (student / ".git").exists()
    for path in files:
        if (student / path).is_file():
            assert (student / path).read_bytes() == (PROJECT / path).read_bytes()
    for path in student.rglob("test_*.py"):
        assert "grading.solutions" not in path.read_text(encoding="utf-8")


def test_editions_are_written_where_nothing_is(tmp_path, capsys):
    (tmp_path / "notes").write_text("")
    for folder in (tmp_path, tmp_path / "notes", PROJECT / "editions"):
        assert editions.main([str(folder)]) == 2
        assert capsys.readouterr().err.startswith("FOLDER must ")
