"""Runs one answer in a process of its own, for answers.py: cases in, values out, as JSON.

Reads {"id", "source", "seed", "seconds"} from stdin and writes {"found": [a plain value a case]} or
{"failure": sentence} to stdout. Whatever an answer does in here, it can only change the values that
come out, and these are judged in the process of the grader.
"""

import json
import os
import re
import sys
import sysconfig
import types
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
# Libraries may be read, as they import parts of theirs late. Nothing else, solutions least of all.
READABLE = tuple(
    os.path.realpath(folder) + os.sep
    for folder in (
        *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
        PROJECT / "helpers",
    )
)
# Audit events: https://docs.python.org/3/library/audit_events.html
FORBIDDEN = ("os.", "subprocess.", "shutil.", "socket.", "ctypes.", "signal.", "resource.")
LISTING = ("os.listdir", "os.scandir")
FILE_SIZE = 2**26


def main():
    asked, out = json.load(sys.stdin), os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.path.insert(0, str(PROJECT))
    sys.dont_write_bytecode = True
    _report(out, _answer(asked))


def _answer(asked):
    """{"found": …} or {"failure": …} of one answer, within its limits."""
    from tests.grading import exercises
    from tests.grading.problems import PROBLEMS, Wrong

    problem = PROBLEMS[asked["id"]]
    known = names(asked["source"], problem.tensors)
    _limit(asked["seconds"], exercises)
    _guard()
    try:
        exec(compile(asked["source"], "answer", "exec"), known)
        return {"found": exercises.answers(problem, known[problem.name], asked["seed"])}
    except Wrong as wrong:
        return {"failure": str(wrong)}
    except MemoryError:
        return {"failure": exercises.too_much(problem)}
    except BaseException as error:  # SystemExit, too
        return {"failure": f"{type(error).__name__}: {error}{_line(error)}"[:300]}


def _line(error):
    """The last line of the answer that an error came through."""
    line, step = None, error.__traceback__
    while step:
        line = step.tb_lineno if step.tb_frame.f_code.co_filename == "answer" else line
        step = step.tb_next
    return f", line {line}" if line else ""


def names(source, tensors):
    """What an answer finds imported, as in its notebook; TensorFlow, which takes long, if used."""
    import numpy as np

    from helpers import svd

    svd.decompose([[1.0]])  # the first call looks for BLAS, which is forbidden later
    known = {"np": np, "svd": svd}
    if tensors or re.search(r"\btf\b", source):
        from helpers.backend import tf

        # Arithmetic alone: TensorFlow reads and writes files without asking Python.
        writes = ("_", "load", "print", "py_", "numpy_")
        public = {
            name: value
            for name, value in vars(tf).items()
            if not name.startswith(writes) and not isinstance(value, types.ModuleType)
        }
        known["tf"] = types.SimpleNamespace(**public, math=tf.math, linalg=tf.linalg, nn=tf.nn)
    return known


def _limit(seconds, exercises):
    """Bound memory, on Linux, and processor time and the size of files."""
    exercises.limit_memory()
    resource = exercises.resource
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))


def _guard():
    """From now on no file is opened, and no process is started or ended.

    What the hook calls is bound here: an answer that finds this module cannot put others there.
    """
    forbidden, listing, readable = FORBIDDEN, LISTING, READABLE
    realpath, text, number, letters = os.path.realpath, os.fsdecode, int, set
    is_a, writing, refusal = isinstance, os.O_WRONLY | os.O_RDWR, PermissionError

    def hook(event, arguments):
        if event == "open":
            path, mode, flags = arguments
            writes = letters(mode or "") & letters("wax+") or (flags or 0) & writing
            if is_a(path, number) or (not writes and realpath(text(path)).startswith(readable)):
                return
            raise refusal(f"it may not open {text(path)!r}")
        if event.startswith(forbidden) and event not in listing:
            raise refusal(f"it may not call {event}")

    sys.addaudithook(hook)


def _report(out, report, dumps=json.dumps, write=os.write, leave=os._exit):
    """Write the report and end at once: nothing that an answer registered runs after that."""
    content = dumps(report).encode()
    while content:
        content = content[write(out, content) :]
    leave(0)


if __name__ == "__main__":
    main()
