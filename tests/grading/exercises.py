"""Exercises: hand an answer its cases, and judge what comes back.

The notebooks' check cells and the grader share this code: a student sees the verdict that the
grader will give, except for the seed of the cases and the rules of an answer cell.
"""

import collections
import contextlib
import copy
import inspect
import re
import reprlib
from pathlib import Path

import numpy as np

try:
    import resource
except ImportError:  # Windows, where nothing is limited
    resource = None

from .problems import PROBLEMS, Wrong

MEMORY = 2 * 2**30  # bytes that an answer may use beside what the process has already
NOT_TRIED = "not attempted"
HINTS, SOLUTIONS = (Path(__file__).with_name(name) for name in ("hints.md", "solutions.py"))
told, passed = collections.Counter(), set()  # in this session: hints an exercise, exercises


def check(id, answer):
    """Print whether the answer to an exercise is right, else what was expected and what was found.

    Args:
        id: of the exercise, such as "1.E1".
        answer: the function that it asks for.
    """
    reason = _reason(PROBLEMS[id], answer)
    passed.update([] if reason else [id])
    print(f"{id}: {reason or 'right'}")


def hint(id):
    """Print the next hint for an exercise; each call goes a step further, up to the last one."""
    (row,) = re.findall(rf"^\| {re.escape(id)} \| (.*) \|$", HINTS.read_text("utf-8"), re.MULTILINE)
    hints = row.split(" | ")
    told[id] = min(told[id] + 1, len(hints))
    print(f"{id}, hint {told[id]} of {len(hints)}: {hints[told[id] - 1]}")


def solution(id):
    """Print the solution of an exercise and its discussion, once its check has said "right"."""
    if PROBLEMS[id].id not in passed:
        print(f"{id}: the solution is shown when the check has said that yours is right.")
    elif not SOLUTIONS.exists():
        print(f"{id}: the student's edition has no solutions; your teacher has them.")
    else:
        print(solutions()[id])


def solutions():
    """The sources of the solutions: {id: source}."""
    parts = re.split(r"^# %% (\S+)\n", SOLUTIONS.read_text("utf-8"), flags=re.MULTILINE)
    return {id: source.strip() for id, source in zip(parts[1::2], parts[2::2], strict=True)}


def _reason(problem, answer):
    if _is_blank(problem, answer):
        return NOT_TRIED
    with _limited_memory():
        try:
            return judge(problem, answers(problem, answer, seed=0), seed=0)
        except MemoryError:
            return too_much(problem)
        except Wrong as wrong:
            return str(wrong)


def too_much(problem):
    """What an answer hears that asked for too much memory."""
    matrix = f"formed a matrix of {problem.large}, or " if problem.large else ""
    return f"expected at most {MEMORY >> 30} GiB of memory, found that it {matrix}asked for more"


def _is_blank(problem, answer):
    """Is an answer still what the blank cell defines?"""
    exec(problem.blank, names := {})
    codes = [getattr(f, "__code__", None) for f in (answer, names[problem.name])]
    mine, blank = ((getattr(code, "co_code", 0), getattr(code, "co_consts", 0)) for code in codes)
    return mine == blank


class Cases(list):
    """Tuples of arguments, one a case; shown by the arguments' names and shapes."""

    def __repr__(self):
        lines = [f"a list of {len(self)} cases, each a tuple: ({', '.join(self.names)})"]
        for number, case in enumerate(self):
            parts = zip(self.names, map(_shape, case), strict=True)
            lines.append(f"[{number}]: " + ", ".join(f"{name} {shape}" for name, shape in parts))
        return "\n".join(lines)


def _shape(part):
    if isinstance(part, list) and hasattr(part[0], "shape"):
        return f"of shapes {[one.shape for one in part]}"
    return tuple(getattr(part, "shape", ())) or reprlib.repr(part)


def handed(id, seed=0):
    """What the answer to an exercise is called with: a list of arguments, one tuple a case."""
    problem = PROBLEMS[id]
    made = [case[: len(case) - problem.hidden] for case in _cases(problem, seed)]
    if problem.tensors:
        from helpers.backend import tf  # seconds, which the other exercises need not wait for

        made = [tuple(tf.constant(part) for part in case) for case in made]
    made = Cases(made)
    made.names = problem.signature[:-1].partition("(")[2].split(", ")
    return made


def _cases(problem, seed):
    """The cases, made anew; no two of their arrays share memory."""
    return [copy.deepcopy(case) for case in problem.cases(np.random.default_rng(seed))]


def answers(problem, answer, seed):
    """What an answer gives for each case, as plain values: a list.

    Raises:
        Wrong: it is not a function of these arguments, or gives more than numbers and text.
    """
    cases = handed(problem.id, seed)
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
        return f"expected a value, found that {problem.name} returned None: is a `return` missing?"
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
