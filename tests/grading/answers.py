"""Takes an answer from a notebook, runs it in a process of its own, and judges what comes back.

That stops accidents and simple tricks, not an attacker: for these there are containers.
"""

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from .exercises import NOT_TRIED, judge

SCRIPT = Path(__file__).with_name("answering.py")
IMPORTS = {"numpy", "numpy.linalg", "scipy.linalg", "math", "itertools", "functools", "helpers.svd"}
LARGEST = 2**26  # bytes of what an answer may give back
# Names by which Python reaches the frames around an answer, where the seed of its cases is.
FRAMES = {"gi_frame", "cr_frame", "ag_frame", "tb_frame", "f_back", "f_globals", "f_locals"}
FRAMES |= {"getattr", "vars"}  # which reach them by a text
NOTHING = "it ended Python, and gave nothing back"


def cells(path):
    """The sources of the answer cells of a notebook: {id: [source, …]}.

    Raises:
        ValueError: it is not a notebook.
    """
    found = {}
    try:
        for cell in json.loads(path.read_bytes())["cells"]:
            metadata = cell["metadata"]
            if cell["cell_type"] == "code" and "answer" in metadata.get("tags", []):
                found.setdefault(metadata.get("exercise"), []).append("".join(cell["source"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name} is not a notebook: {type(error).__name__}") from None
    return found


def grade(problem, sources, seed, seconds):
    """Why the answer to an exercise is not right; "" if it is.

    Args:
        problem: tests.grading.problems.Problem.
        sources: of the answer cells that have its id; there should be one.
        seed: of the cases that it is handed.
        seconds: of processor time that it may take; by the clock, three times that.
    """
    if len(sources) != 1:
        return f"expected one answer cell, found {len(sources)}"
    if sources[0].strip() == problem.blank:
        return NOT_TRIED
    if reason := forbidden(sources[0], problem.name):
        return reason
    asked = {"id": problem.id, "source": sources[0], "seed": seed, "seconds": seconds}
    ended, content = run(asked, 3 * seconds)
    return ended or judged(problem, content, seed)


def forbidden(source, name):
    """Which line of an answer is more than imports and the definition of `name`; "" if none is."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        return f"line {line}: {error.msg}" if line else "it is not Python"
    for node in tree.body:
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        imports = isinstance(node, (ast.Import, ast.ImportFrom))
        if not (imports or text or _defines(node, name)):
            return f"line {node.lineno}: expected imports and {name} alone, found more"
    for node in ast.walk(tree):
        if reason := _reason(node):
            return f"line {node.lineno}: {reason}"
    if not any(_defines(node, name) for node in tree.body):
        return f"it does not define {name}"
    return ""


def _defines(node, name):
    if isinstance(node, ast.FunctionDef):
        return node.name == name and not node.decorator_list
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    assigned = isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
    return assigned and all(isinstance(t, ast.Name) and t.id == name for t in targets)


def _reason(node):
    """Why a node may not stand anywhere in an answer."""
    imported = []
    if isinstance(node, ast.Import):
        imported = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        whole = module in IMPORTS
        imported = [module if whole else f"{module}.{alias.name}" for alias in node.names]
    if unknown := [module for module in imported if module not in IMPORTS]:
        return f"it may import {', '.join(sorted(IMPORTS))}, not {unknown[0]}"
    if isinstance(node, ast.Global):
        return "it may not rebind names of others"
    used = getattr(node, "id", None) or getattr(node, "attr", None) or ""
    return f"it may not use {used}" if str(used).startswith("__") or used in FRAMES else ""


def run(asked, seconds):
    """Run an answer in a process: why it was ended, else "", and what it has written, as bytes.

    Args:
        asked: dict of its id, source, seed and seconds of processor time.
        seconds: by the clock.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-I", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
        )
        try:
            process.communicate(json.dumps(asked).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"it took more than {seconds:g} seconds", b""
        finally:
            _end(process)
        if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"it took more than {asked['seconds']:g} seconds of processor time", b""
        out.seek(0)
        return "", out.read(LARGEST + 1)


def _environment(folder):
    """One thread; the arithmetic of this process; and nothing else of its environment."""
    arithmetic = "OPENBLAS_", "MKL_", "OMP_", "ONEDNN_"
    names = [k for k in os.environ if k in ("PATH", "LANG") or k.startswith(arithmetic)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), "1")
    return {k: os.environ[k] for k in names} | one | {"HOME": folder, "TMPDIR": folder}


def _end(process):
    """End it, and all that it may have started."""
    with contextlib.suppress(ProcessLookupError):  # they have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def judged(problem, content, seed):
    """The verdict on what a process has written, in this one, which never runs an answer.

    The answer may have written it: whatever it says, it is no verdict.
    """
    try:
        report = json.loads(content) if len(content) <= LARGEST else {}
        found, failure = report.get("found"), report.get("failure")
    except (ValueError, AttributeError, RecursionError):
        return NOTHING
    if not isinstance(found, list):
        return _one_line(str(failure or "")) or NOTHING
    try:
        return judge(problem, found, seed)
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return "expected values that can be judged, found others"


def _one_line(text):
    text = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return text[:300]
