"""Exercises: hand an answer its cases, and judge what comes back.

The notebooks' check cells and the grader share this code: a student sees the verdict that the
grader will give, except for the seed of the cases and the rules of an answer cell.
"""

import contextlib
import copy
import inspect

import numpy as np

try:
    import resource
except ImportError:  # Windows, where nothing is limited
    resource = None

from .problems import PROBLEMS, Wrong

MEMORY = 2 * 2**30  # bytes that an answer may use beside what the process has already
NOT_TRIED = "not attempted"
TOO_MUCH = (
    f"expected at most {MEMORY / 2**30:g} GiB of memory, found that it formed a matrix that is too "
    "large, or asked for more in another way"
)


def check(id, answer):
    """Print whether the answer to an exercise is right, else what was expected and what was found.

    Args:
        id: of the exercise, such as "1.E1".
        answer: the function or value that it asks for.
    """
    print(f"{id}: {_reason(PROBLEMS[id], answer) or 'right'}")


def _reason(problem, answer):
    if _is_blank(problem, answer):
        return NOT_TRIED
    with _limited_memory():
        try:
            return judge(problem, answers(problem, answer, seed=0), seed=0)
        except MemoryError:
            return TOO_MUCH
        except Wrong as wrong:
            return str(wrong)


def _is_blank(problem, answer):
    """Is an answer still what the blank cell defines?"""
    names = {}
    exec(problem.blank, names)
    codes = [getattr(f, "__code__", None) for f in (answer, names[problem.name])]
    if None in codes:
        return answer is None
    mine, blank = ((code.co_code, code.co_consts) for code in codes)
    return mine == blank


def handed(id, seed=0):
    """What the answer to an exercise is called with: a list of arguments, one tuple a case."""
    problem = PROBLEMS[id]
    made = [case[: len(case) - problem.hidden] for case in _cases(problem, seed)]
    if problem.tensors:
        from helpers.backend import tf  # seconds, which the other exercises need not wait for

        made = [tuple(tf.constant(part) for part in case) for case in made]
    return made


def _cases(problem, seed):
    """The cases, made anew, one without parts for a value; no two of their arrays share memory."""
    made = problem.cases(np.random.default_rng(seed)) if problem.cases else [()]
    return [copy.deepcopy(case) for case in made]


def answers(problem, answer, seed):
    """What an answer gives for each case, as plain values: a list.

    Raises:
        Wrong: it is not a function of these arguments, or gives more than numbers and text.
    """
    cases = handed(problem.id, seed)
    if not problem.cases:
        return [to_plain(answer)]
    expected = f"expected {problem.signature}, found"
    if not callable(answer):
        raise Wrong(f"{expected} no function")
    with contextlib.suppress(ValueError):  # a built-in function does not say what it takes
        signature = inspect.signature(answer)
        try:
            signature.bind(*cases[0])
        except TypeError:
            raise Wrong(f"{expected} {problem.name}{signature}") from None
    return [to_plain(answer(*case)) for case in cases]


def to_plain(value):
    """A value as JSON can hold it: numbers and text as they are, tuples and arrays as lists.

    Raises:
        Wrong: it is or contains anything else.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [to_plain(part) for part in value]
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise Wrong(f"expected numbers or arrays of them, found {type(value).__name__}")
    return (array.astype(float) if array.dtype.kind == "f" else array).tolist()


def judge(problem, found, seed):
    """Why the values that were found for the cases are not right; "" if they are.

    Args:
        problem: tests.grading.problems.Problem.
        found: list of one plain value a case.
        seed: that the cases were made from.
    """
    if all(value is None for value in found):
        missing = ": is its `return` missing?" if problem.cases else ""
        return f"expected a value, found None{missing}"
    asked = _cases(problem, seed)
    if len(found) != len(asked):
        return f"expected {len(asked)} values, found {len(found)}"
    for number, (value, case) in enumerate(zip(found, asked, strict=True), start=1):
        try:
            problem.verdict(value, *case)
        except Wrong as wrong:
            return f"case {number} of {len(asked)}: {wrong}" if len(asked) > 1 else str(wrong)
    return ""


@contextlib.contextmanager
def _limited_memory():
    before = limit_memory()
    try:
        yield
    finally:
        if before:
            resource.setrlimit(resource.RLIMIT_AS, before)


def limit_memory():
    """Let this process have MEMORY more bytes, on Linux; return the limits before, or None."""
    try:
        with open("/proc/self/statm") as sizes:
            has = int(sizes.read().split()[0]) * resource.getpagesize()
    except (OSError, AttributeError):  # macOS, Windows
        return None
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = min([has + MEMORY, *(limit for limit in before if limit != resource.RLIM_INFINITY)])
    if most < has:  # never below what it has already
        return None
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    return before
