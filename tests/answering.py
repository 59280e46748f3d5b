"""Runs one answer in a process of its own, for tests/answers.py: cases in, values out, as JSON.

Reads {"id", "source", "seed", "seconds"} from stdin and writes {"found": [a plain value a case]} or
{"failure": sentence} to stdout. Whatever an answer does in here, it can only change the values that
come out, and these are judged in the process of the grader.
"""

import json
import os
import resource
import sys
import sysconfig
import types
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
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
    _report(out, _answer(asked, out))


def _answer(asked, out):
    """{"found": …} or {"failure": …} of one answer, within its limits."""
    from helpers.lab import exercises
    from helpers.lab.problems import PROBLEMS, Wrong

    problem = PROBLEMS[asked["id"]]
    names = _names(problem)
    _limit(asked["seconds"], exercises)
    _guard(out)
    try:
        exec(compile(asked["source"], "answer", "exec"), names)
        values = exercises.answers(problem, names[problem.name], asked["seed"])
        return {"found": [exercises.to_plain(value) for value in values]}
    except Wrong as wrong:
        return {"failure": str(wrong)}
    except MemoryError:
        return {"failure": exercises.TOO_MUCH}
    except BaseException as error:  # SystemExit, too
        return {"failure": f"{type(error).__name__}: {error}{_line(error)}"[:300]}


def _line(error):
    """The last line of the answer that an error came through."""
    line, step = None, error.__traceback__
    while step:
        line = step.tb_lineno if step.tb_frame.f_code.co_filename == "answer" else line
        step = step.tb_next
    return f", line {line}" if line else ""


def _names(problem):
    """What an answer finds imported, as in its notebook."""
    import numpy as np

    from helpers import svd

    names = {"np": np, "svd": svd}
    if problem.tensors:
        from helpers.lab.backend import tf

        # Arithmetic alone: TensorFlow reads and writes files without asking Python.
        public = {name: value for name, value in vars(tf).items() if not name.startswith("_")}
        public = {k: v for k, v in public.items() if not isinstance(v, types.ModuleType)}
        public = {k: v for k, v in public.items() if not k.startswith(("load", "py_", "numpy_"))}
        names["tf"] = types.SimpleNamespace(**public, math=tf.math, linalg=tf.linalg, nn=tf.nn)
    return names


def _limit(seconds, exercises):
    """Bound memory, on Linux, and processor time and the size of files."""
    exercises.limit_memory()
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))


def _guard(out):
    """From now on to open a file, or to start or end a process, ends this one."""

    def hook(event, arguments, report=_report, realpath=os.path.realpath):
        if event == "open":
            path, mode, flags = arguments
            writes = set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            if isinstance(path, int) or (not writes and _readable(path, realpath)):
                return
            report(out, {"failure": f"it may not open {os.fsdecode(path)!r}"})
        elif event.startswith(FORBIDDEN) and event not in LISTING:
            report(out, {"failure": f"it may not call {event}"})

    sys.addaudithook(hook)


def _readable(path, realpath):
    return realpath(os.fsdecode(path)).startswith(READABLE)


def _report(out, report):
    """Write the report and end at once: nothing that an answer registered runs after that."""
    content = json.dumps(report).encode()
    while content:
        content = content[os.write(out, content) :]
    os._exit(0)


if __name__ == "__main__":
    main()
