"""Exercises: hand an answer its cases, and judge what comes back.

The notebooks' check cells and the grader (tests/grade.py) share this code: a student sees the
verdict that the grader will give, but for the seed of the cases and the rules of an answer cell.
"""

import base64
import contextlib
import copy

import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None

from .problems import PROBLEMS, Wrong

MEMORY = 2 * 2**30  # bytes that an answer may use beside what the process has already
NOT_TRIED = "not attempted"
TOO_MUCH = f"expected at most {MEMORY / 2**30:g} GiB of memory, found that it asked for more"


def check(id, answer):
    """Print whether the answer to an exercise is right, else what was expected and what was found.

    Args:
        id: of the exercise, such as "1.E1".
        answer: the function or value that it asks for.
    """
    problem = PROBLEMS[id]
    with _limited_memory():
        try:
            found = [from_plain(to_plain(value)) for value in answers(problem, answer, seed=0)]
            reason = judge(problem, found, seed=0)
        except MemoryError:
            reason = TOO_MUCH
        except Wrong as wrong:
            reason = str(wrong)
    print(f"{id}: {reason or 'right'}")


def handed(id, seed=0):
    """What the answer to an exercise is called with: a list of arguments, one tuple a case."""
    problem = PROBLEMS[id]
    made = [case[: len(case) - problem.hidden] for case in _cases(problem, seed)]
    if problem.tensors:
        from helpers.backend import tf  # seconds, which the other exercises need not wait for

        made = [tuple(tf.constant(part) for part in case) for case in made]
    return made


def answers(problem, answer, seed):
    """What an answer gives for each case: a list."""
    return [answer(*case) if problem.cases else answer for case in handed(problem.id, seed)]


def _cases(problem, seed):
    """The cases, made anew, one without parts for a value; no two of their arrays share memory."""
    made = problem.cases(np.random.default_rng(seed)) if problem.cases else [()]
    return [copy.deepcopy(case) for case in made]


def judge(problem, found, seed):
    """Why the values that were found for the cases are not right; "" if they are.

    Args:
        problem: tests.grading.problems.Problem.
        found: list of one value a case, of the kinds that `from_plain` gives.
        seed: that the cases were made from.
    """
    if all(value is None for value in found):
        return NOT_TRIED
    asked = _cases(problem, seed)
    if len(found) != len(asked):
        return f"expected {len(asked)} values, found {len(found)}"
    for number, (value, case) in enumerate(zip(found, asked, strict=True), start=1):
        try:
            problem.verdict(value, *case)
        except Wrong as wrong:
            return f"case {number} of {len(asked)}: {wrong}" if len(asked) > 1 else str(wrong)
    return ""


def to_plain(value):
    """A value as JSON can hold it: numbers and text as they are, arrays as shape and bytes.

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
    if not array.shape:
        return array.item()
    content = np.ascontiguousarray(array, dtype="<f8").tobytes()
    return {"shape": list(array.shape), "float64": base64.b64encode(content).decode()}


def from_plain(plain):
    """The value that `to_plain` was given, arrays as float64, tuples as lists.

    Raises:
        Wrong: `to_plain` never gave this.
    """
    if plain is None or isinstance(plain, (bool, int, float, str)):
        return plain
    if isinstance(plain, list):
        return [from_plain(part) for part in plain]
    try:
        content = base64.b64decode(plain["float64"], validate=True)
        return np.frombuffer(content, "<f8").reshape([int(n) for n in plain["shape"]]).copy()
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Wrong("expected numbers or arrays of them, found other bytes") from None


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
    except (OSError, AttributeError):
        return None
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = has + MEMORY
    if before[1] != resource.RLIM_INFINITY:
        most = min(most, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    return before
