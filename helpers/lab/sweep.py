"""Run notebooks × D × seeds by papermill, on this machine or on a Dask cluster.

Executed copies, results (JSON), a table of all results (CSV) and a picture of them go to .runs/.
A run whose results are there is not run again.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from .. import PROJECT, data
from ..quiet import stderr_muted
from . import RUNS, parameters

NOTEBOOKS = PROJECT / "notebooks"
CORES = os.cpu_count() or 1
NEW = ".json.new"  # ending of results that have not taken the place of older ones yet
# Seconds of a notebook: for itself, and for 1,000 training images at 15 epochs where a product of
# two float32 matrices of 1024 × 1024 takes this long.
FIXED, BY_IMAGES, PRODUCT = 45, 3.1, 0.00625


class Run(NamedTuple):
    """One execution of one notebook."""

    notebook: str
    D: int
    seed: int
    dataset: str  # its name in the results
    epochs: int
    source: str  # what is loaded: a name or a path
    digest: str  # of a file's content: another one of the same name is another run

    def __str__(self):
        return f"{self.notebook} D={self.D} seed={self.seed}"

    def parameters(self):
        """The parameters that the results record: all but the source and its digest."""
        return dict(zip(self._fields, self[:-2], strict=False))

    def path(self, suffix):
        name = Path(self.dataset).stem + self.digest
        return RUNS / f"{self.notebook}-{name}-D{self.D}-e{self.epochs}-s{self.seed}{suffix}"

    def results(self, suffix=".json"):
        """The results file's content, or None if the run is not finished."""
        try:
            measured = json.loads(self.path(suffix).read_text(encoding="utf-8"))
            asked = self.parameters().items()
            return measured if all(measured[k] == v for k, v in asked) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def main(arguments=None):
    """Run what is asked for; return 0, or 1 if a run failed, 2 for a bad argument, 130 for ^C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup and cron ignore it
    chosen = _parser().parse_args(arguments)
    try:
        runs, images = _runs(chosen)
        todo = [run for run in runs if chosen.again or run.results() is None]
        threads = _threads(chosen, len(todo))
        _say_plan(runs, todo, images, chosen.scheduler)
        if chosen.dry_run:
            for run in sorted(runs):
                print(f"{'to run' if run in todo else 'finished':9} {run}")
            return 0
        failures = _run_all(todo, chosen.scheduler, threads, chosen.again)
        _collect(runs[0])  # all have its data set and epochs
    except ValueError as error:
        _say(error)
        return 2
    except OSError as error:
        _say(f"Stopped: {error}")
        return 1
    except KeyboardInterrupt:
        _say("\nStopped. What is finished is kept; the same command goes on.")
        return 130
    _print_table([run for run in sorted(runs) if run.results()])
    for run, reason in failures.items():
        _say(f"{run} failed: {reason}")
    print(f"Executed notebooks, results.csv and pictures: {RUNS.name}/")
    return 1 if failures else 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m helpers", description=__doc__)
    parser.add_argument("notebooks", nargs="*", help="such as 02 or 03_dynamic_svd; all by default")
    parser.add_argument("--D", nargs="+", default=["20"], help="ranks")
    parser.add_argument("--seed", nargs="+", default=["0"], help="seeds")
    parser.add_argument("--dataset", default="auto", help="auto, mnist, subset or an .npz file")
    parser.add_argument("--epochs", default="15", help="passes over the training data")
    parser.add_argument("--threads", help="for each run; by default they share the cores")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="a Dask cluster that runs already")
    parser.add_argument("--again", action="store_true", help="run what is finished, too")
    parser.add_argument("--dry-run", action="store_true", help="list what would run")
    return parser


def _runs(chosen):
    """All runs asked for, seed by seed, and the number of training images; or ValueError."""
    stems = _stems(chosen.notebooks)
    epochs, dataset = _literal(chosen.epochs), chosen.dataset
    grid = [(_literal(D), _literal(seed)) for seed in chosen.seed for D in chosen.D]
    for D, seed in grid:
        parameters.check(D, dataset, epochs, seed, results="")
    dataset = os.environ.get("SVD_DATASET") or dataset if dataset == "auto" else dataset
    if dataset in ("auto", "mnist"):
        _say("Looking for whole MNIST …")  # imports TensorFlow, and may download
    digits = data.load(dataset)
    parts = (digits.y_train, "train"), (digits.y_val, "validate"), (digits.y_test, "test")
    _say(f"Digits: {digits.name}, " + ", ".join(f"{len(y):,} to {use}" for y, use in parts) + ".")
    name, digest = digits.name, ""
    source = name if dataset in ("auto", "mnist", "subset") else str(data.find(dataset).resolve())
    if name not in ("mnist", "subset"):
        digest = "-" + hashlib.sha256(Path(source).read_bytes()).hexdigest()[:8]
    # The last notebook takes longest: first begun, it leaves no core idle in the end.
    cells = [(stem, D, seed) for D, seed in dict.fromkeys(grid) for stem in stems[::-1]]
    return [Run(*cell, name, epochs, source, digest) for cell in cells], len(digits.y_train)


def _threads(chosen, runs):
    """Threads for each run: as many as asked for; its share of the cores; on a cluster, None."""
    if chosen.threads is None:
        return None if chosen.scheduler else max(1, CORES // max(1, runs))
    threads = _literal(chosen.threads)
    if type(threads) is not int or threads < 1:
        raise ValueError(f"threads must be a whole number, at least 1, not {threads!r}.")
    return threads


def _stems(names):
    """The notebooks whose names start with one of these."""
    stems = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    if unknown := [name for name in names if not any(s.startswith(name) for s in stems)]:
        raise ValueError(f"there is no notebook {unknown[0]!r}; there are {', '.join(stems)}.")
    return [stem for stem in stems if not names or stem.startswith(tuple(names))]


def _literal(text):
    """20 → int, 0.1 → float, anything that is no Python literal → str."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text


def _say(line):
    print(line, file=sys.stderr, flush=True)


def _say_plan(runs, todo, images, scheduler):
    for name, values in zip(Run._fields[:3], zip(*runs, strict=True), strict=False):
        _say(f"{name}: " + ", ".join(map(str, sorted({*values}))))
    _say(f"finished: {len(runs) - len(todo)} of {len(runs)} runs")
    if todo and not scheduler:
        _say(f"time: about {minutes(len(todo), images, todo[0].epochs):.0f} min here")


def minutes(runs, images, epochs):
    """About how long so many runs take here, by the time of a product of two matrices."""
    matrix, stamps = np.ones((1024, 1024), np.float32), [time.perf_counter()]
    for _ in range(10):
        _ = matrix @ matrix
        stamps.append(time.perf_counter())
    training = BY_IMAGES * images / 1000 * epochs / 15 * np.median(np.diff(stamps)) / PRODUCT
    return max(1, runs * (FIXED + training) / 60)


def _run_all(runs, scheduler, threads, again):
    """Train the baselines, then run the notebooks; return {run: why it failed}."""
    if not runs:
        return {}
    RUNS.mkdir(exist_ok=True)
    seeds = [*dict.fromkeys(run.seed for run in runs)]  # each has a baseline of its own
    failures, start = {}, time.perf_counter()
    with executor(scheduler, max(1, CORES // (threads or 1))) as pool:
        share = None if scheduler else max(threads, CORES // len(seeds))
        _say("Training the baseline, unless it is kept from before …")
        about = runs[0].source, runs[0].epochs
        trained = {seed: pool.submit(train_baseline, *about, seed, share) for seed in seeds}
        reasons = {seed: _reason(future) for seed, future in trained.items()}
        futures = {pool.submit(execute, r, threads, again, reasons[r.seed]): r for r in runs}
        for done, future in enumerate(as_completed(futures), start=1):
            run = futures[future]
            if reason := _reason(future):
                failures[run] = reason
            _collect(run)
            left = (time.perf_counter() - start) * (len(runs) / done - 1) / 60
            state = f"{done - len(failures)} done, {len(failures)} failed, {len(runs) - done} left"
            said = f"failed: {reason}" if reason else "done"
            _say(f"{run} {said} [{state}, {left:.0f} min]")
    return failures


def _reason(future):
    """Why a task failed, "" if it did not."""
    error = future.exception()
    return future.result() if error is None else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def executor(scheduler, workers):
    """Yield an executor: the Dask cluster, or so many processes here, stopped at the end."""
    if scheduler:
        from distributed import Client  # takes a second

        try:
            client = Client(scheduler, timeout=5)
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler answers at {scheduler!r}.") from error
        with client:
            yield client.get_executor(pure=False)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, initializer=_stop_with_the_sweep)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()


def _stop_with_the_sweep():
    """Let this worker, and the processes it starts, end when the sweep ends or stops it."""

    def stop(*_):
        if os.name == "posix":
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    def watch():
        multiprocessing.parent_process().join()
        stop()

    if os.name == "posix":
        os.setpgid(0, 0)  # so ^C in a terminal reaches the sweep alone
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=watch, daemon=True).start()


def _environment(threads):
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    figures_folder = {"SVD_FIGURES": str(RUNS / "figures")}  # figures/ holds the published ones
    return (dict.fromkeys(variables, str(threads)) if threads else {}) | figures_folder


def train_baseline(source, epochs, seed, threads):
    """Train one baseline and keep it, in a process of its own; return why it failed, or ""."""
    code = f"store.baseline(data.load({source!r}), {epochs}, {seed})"
    imports = "from helpers import data; from helpers.lab import store"
    command = [sys.executable, "-c", f"{imports}; {code}"]
    done = subprocess.run(
        command, cwd=PROJECT, env=os.environ | _environment(threads), capture_output=True, text=True
    )
    said = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
    return f"the baseline: {said[-1]}" if done.returncode else ""


def execute(run, threads, again, reason):
    """Run one notebook; return why it failed, or "". With a reason not to begin, return that."""
    if reason:
        return reason
    os.environ.update(_environment(threads))
    with FileLock(run.path(".lock")):
        if not again and run.results():
            return ""  # another sweep has finished it meanwhile
        if reason := _execute(run):
            run.path(".json").unlink(missing_ok=True)
        else:
            run.path(NEW).replace(run.path(".json"))
        return reason


def _execute(run):
    """Run one notebook, which writes new results beside the old; return why it failed, or ""."""
    import papermill  # takes seconds, which --dry-run and a bad argument need not wait for

    run.path(NEW).unlink(missing_ok=True)
    parameters = run.parameters() | {"dataset": run.source, "results": str(run.path(NEW))}
    source, target = NOTEBOOKS / f"{parameters.pop('notebook')}.ipynb", run.path(".ipynb")
    # papermill puts parameters in the place of names in braces.
    escaped = [str(path).replace("{", "{{").replace("}", "}}") for path in (source, target)]
    options = {"kernel_name": "python3", "cwd": str(NOTEBOOKS), "progress_bar": False}
    options["request_save_on_cell_execute"] = False  # every half minute is often enough
    try:
        with stderr_muted():  # a kernel that is stopped logs tracebacks; what failed is returned
            papermill.execute_notebook(*escaped, parameters, **options)
    except papermill.PapermillExecutionError as error:
        return f"cell [{error.exec_count}]: {error.ename}: {error.evalue}"
    except Exception as error:  # one run's failure must not cost the others theirs
        return f"{type(error).__name__}: {error}"
    return "" if run.results(NEW) else "it wrote no results"


def _collect(run):
    """Write the table of all results in RUNS, and the picture of those like this run."""
    from . import results  # pandas and matplotlib take seconds

    found = [results.frame()]
    for path in sorted(RUNS.glob("[!.]*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found.append(results.rows(json.loads(path.read_text(encoding="utf-8"))))
    table = results.merge(*found)
    results.write(RUNS / "results.csv", table)
    drawn = table[(table["dataset"] == run.dataset) & (table["epochs"] == run.epochs)]
    if (drawn["method"] == "baseline").any():
        results.picture(drawn, RUNS / "figures")


def _print_table(runs):
    """A line per network: its test accuracy and size."""
    from . import results

    for run in runs:
        print(f"\n{run}, {run.dataset}")
        print(f"  {'network':24}{'test accuracy':>14}{'parameters':>14}")
        for row in results.rows(run.results()).fillna({"parameters": 0}).itertuples():
            size = f"{row.parameters:,}" if row.parameters else ""
            print(f"  {row.method:24}{row.test_accuracy:>14.2%}{size:>14}")
    print()
