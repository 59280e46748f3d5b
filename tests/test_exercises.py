import json
import resource

import nbformat
import numpy as np
import pytest

from helpers import PROJECT, svd
from tests import solutions
from tests.grading import exercises
from tests.grading.claims import NAMES
from tests.grading.grade import CLAIMS, notebook_of
from tests.grading.problems import PROBLEMS, Wrong

ORDER = [*PROBLEMS]


def verdict(id, answer, seed=1):
    problem = PROBLEMS[id]
    try:
        found = [exercises.to_plain(value) for value in exercises.answers(problem, answer, seed)]
        return exercises.judge(problem, [exercises.from_plain(value) for value in found], seed)
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
        lambda s, share: int(np.argmax(np.cumsum(s) / np.sum(s) >= share)) + 1,
        lambda s, share: int(np.argmax(np.cumsum(s**2) / np.sum(s**2) >= share)),
        lambda s, share: int(np.argmax(np.cumsum(s**2) / np.sum(s**2) >= share)) + 2,
        lambda s, share: len(s) + 1,
        lambda s, share: "all",
        lambda s, share: True,
    ],
    "1.E2": [9, 11, 1024, 10.0, "10", [10]],
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


@pytest.mark.parametrize("id", ORDER)
@pytest.mark.parametrize(
    "value",
    [0, -1, 10**4000, 1e400, "text", [], [[]], [None, 1], [1, 2], np.ones(3), [[1], [2, 3]]],
)
def test_any_value_has_a_verdict(id, value):
    answer = value if PROBLEMS[id].cases is None else lambda *handed: value
    assert "expected" in verdict(id, answer)


def test_an_answer_cannot_change_what_another_case_or_the_verdict_sees():
    def spoil(s, share):
        rank = int(np.argmax(np.cumsum(s**2) / np.sum(s**2) >= share)) + 1
        s[:] = 0
        return rank

    before = exercises.handed("1.E1")[0][0].copy()
    assert verdict("1.E1", spoil) == ""
    assert np.array_equal(exercises.handed("1.E1")[0][0], before)
    assert not np.array_equal(exercises.handed("1.E1", seed=1)[0][0], before)


def test_what_only_the_verdict_may_see_is_not_handed():
    assert all(len(case) == 1 for case in exercises.handed("1.E5"))


def limits():
    return resource.getrlimit(resource.RLIMIT_AS)


def test_a_check_says_what_is_wrong_and_bounds_the_memory(capsys):
    before = limits()
    exercises.check("3.E1", 126)
    assert "expected fewer multiply-adds than 805,306,368, found 807,9" in capsys.readouterr().out
    exercises.check("3.E2", lambda X, U, Vt: np.eye(len(X)) @ X)
    assert "expected at most 2 GiB" in capsys.readouterr().out
    exercises.check("2.E3", lambda A, B: np.linalg.svd(A @ B, full_matrices=False))
    assert "expected at most 2 GiB" in capsys.readouterr().out
    exercises.check("2.E4", lambda x, dy, U, Vt: ((x.T @ dy) @ Vt.T, U.T @ (x.T @ dy)))
    assert "expected at most 2 GiB" in capsys.readouterr().out
    assert limits() == before
    exercises.check("1.E1", lambda s, share: {1, 2})
    assert "expected numbers" in capsys.readouterr().out


@pytest.mark.parametrize(
    "value", [None, True, 3, 2.5, "text", [1, [2, "a"]], (), np.arange(6.0).reshape(2, 3)]
)
def test_plain_values_come_back(value):
    back = exercises.from_plain(json.loads(json.dumps(exercises.to_plain(value))))
    if isinstance(value, np.ndarray):
        assert back.dtype == float
        assert np.array_equal(back, value)
    else:
        assert back == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("value", [object(), {1: 2}, np.array(["a"]), 1j, np.array([None])])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(Wrong, match="expected numbers"):
        exercises.to_plain(value)


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"shape": [2], "float64": "AAAA"},
        {"shape": "a", "float64": ""},
        {"shape": [10**30], "float64": ""},
        {"shape": [-1], "float64": 3},
        {"shape": None, "float64": ""},
    ],
)
def test_bytes_that_are_no_array_are_refused(plain):
    with pytest.raises(Wrong, match="found other bytes"):
        exercises.from_plain([plain])
