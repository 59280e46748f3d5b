"""Run notebooks × D × seeds by papermill, on this machine or on a Dask cluster.

Executed copies, results (JSON), a table of all results (CSV) and a picture of them go to .runs/.
A run whose results are there is not run again.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from distributed import Client, LocalCluster, as_completed, get_worker
from filelock import FileLock

from .. import PROJECT, data
from . import parameters, results
from ..quiet import stderr_muted
from .results import RUNS

NOTEBOOKS = PROJECT / "notebooks"
CORES = os.cpu_count() or 1
NEW = ".json.new"  # ending of results that have not taken the place of older ones yet
OWN = ("source", "digest")  # what a run knows of itself and its results do not record


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
        """What the results record."""
        return {key: value for key, value in self._asdict().items() if key not in OWN}

    def path(self, suffix):
        name = Path(self.dataset).stem + self.digest
        return RUNS / f"{self.notebook}-{name}-D{self.D}-e{self.epochs}-s{self.seed}{suffix}"

    def results(self, suffix=".json"):
        """What the run measured, or None if it is not finished."""
        try:
            measured = json.loads(self.path(suffix).read_text(encoding="utf-8"))
            asked = self.parameters().items()
            return measured if all(measured[k] == v for k, v in asked) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def main(arguments=None):
    """Run what is asked for; return 0, or 1 if a run failed, 2 for a bad argument, 130 for ^C."""
    chosen = _parser().parse_args(arguments)
    try:
        runs = _runs(chosen)
        todo = [run for run in runs if chosen.again or run.results() is None]
        threads = _threads(chosen.threads, len(todo), chosen.scheduler)
        if chosen.dry_run:
            for run in sorted(runs):
                print(f"{'to run' if run in todo else 'finished':9} {run}")
            return 0
        failures = _run_all(todo, chosen.scheduler, threads, chosen.again)
        _collect(runs)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"Stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. What is finished is kept; the same command goes on.", file=sys.stderr)
        return 130
    _print_table([run for run in sorted(runs) if run.results()])
    for run, reason in failures.items():
        print(f"{run} failed: {reason}", file=sys.stderr)
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
    """All runs asked for, seed by seed; a ValueError says which argument cannot be used."""
    stems = _stems(chosen.notebooks)
    epochs, dataset = _literal(chosen.epochs), chosen.dataset
    grid = [(_literal(D), _literal(seed)) for seed in chosen.seed for D in chosen.D]
    for D, seed in grid:
        parameters.check(D, dataset, epochs, seed, results="")
    dataset = os.environ.get("SVD_DATASET") or dataset if dataset == "auto" else dataset
    name = data.load(dataset).name
    source = name if dataset in ("auto", "mnist", "subset") else str(data.find(dataset).resolve())
    digest = ""
    if name not in ("mnist", "subset"):
        digest = "-" + hashlib.sha256(Path(source).read_bytes()).hexdigest()[:8]
    # The last notebook takes longest: first begun, it leaves no core idle in the end.
    cells = [(stem, D, seed) for D, seed in dict.fromkeys(grid) for stem in stems[::-1]]
    return [Run(*cell, name, epochs, source, digest) for cell in cells]


def _threads(text, runs, scheduler):
    """Threads for each run: as many as asked for; its share of the cores; on a cluster, None."""
    if text is None:
        return None if scheduler else max(1, CORES // max(1, runs))
    threads = _literal(text)
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


def _run_all(runs, scheduler, threads, again):
    """Run them, each seed's baseline before what needs it; return {run: why it failed}."""
    failures = {}
    if not runs:
        return failures
    RUNS.mkdir(exist_ok=True)
    with _client(scheduler, threads) as client:
        client.subscribe_topic("running", lambda event: _say(f"{event[1]} running"))
        baselines, futures = {}, {}
        several = len({run.seed for run in runs}) > 1  # else nothing runs beside the baseline
        cores = threads if several or scheduler else max(threads, CORES)
        for i, run in enumerate(runs):
            first = {"priority": -i, "pure": False}  # in this order, as far as workers are free
            needed = (run.source, run.epochs, run.seed)
            if needed not in baselines:
                baselines[needed] = client.submit(train_baseline, *needed, cores, **first)
            futures[client.submit(execute, run, threads, again, baselines[needed], **first)] = run
        start = time.perf_counter()
        for done, future in enumerate(as_completed(futures), start=1):
            run = futures[future]
            reason = future.result() if future.status == "finished" else str(future.exception())
            if reason:
                failures[run] = reason
            _collect(runs)
            left = (time.perf_counter() - start) * (len(runs) / done - 1) / 60
            state = f"{done - len(failures)} done, {len(failures)} failed, {len(runs) - done} left"
            said = f"failed: {reason}" if reason else "done"
            _say(f"{run} {said} [{state}, {left:.0f} min]")
    return failures


def _say(line):
    sys.stderr.write(line + "\n")  # at once: two threads speak, and `print` writes the end apart


@contextlib.contextmanager
def _client(scheduler, threads):
    """A client of the cluster at the address, or of one made here for as long as it is used.

    The one made here has no more workers than threads find cores: TensorFlow's would fight.
    """
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            workers = max(1, CORES // threads)
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs="CRITICAL",
            )
            scheduler = stack.enter_context(cluster).scheduler_address
        try:
            client = Client(scheduler, timeout=5)
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler answers at {scheduler!r}.") from error
        yield stack.enter_context(client)


def _environment(threads):
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    figures_folder = {"SVD_FIGURES": str(RUNS / "figures")}  # figures/ holds the published ones
    return (dict.fromkeys(variables, str(threads)) if threads else {}) | figures_folder


def train_baseline(source, epochs, seed, threads):
    """Train one baseline and keep it, in a process of its own; on a worker."""
    get_worker().log_event("running", f"baseline seed={seed}")
    code = f"store.baseline(data.load({source!r}), {epochs}, {seed})"
    imports = "from helpers import data; from helpers.lab import store"
    command = [sys.executable, "-c", f"{imports}; {code}"]
    done = subprocess.run(
        command, cwd=PROJECT, env=os.environ | _environment(threads), capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        raise RuntimeError(f"the baseline: {said[-1]}")


def execute(run, threads, again, baseline):
    """Run one notebook, on a worker; return why it failed, "" if it did not."""
    get_worker().log_event("running", str(run))
    os.environ.update(_environment(threads))
    with FileLock(run.path(".lock")):
        if not again and run.results():
            return ""  # another sweep has finished it meanwhile
        reason = _execute(run)
        if reason:
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
    try:
        with stderr_muted():  # a kernel that is stopped logs tracebacks; what failed is returned
            papermill.execute_notebook(
                _escaped(source),
                _escaped(target),
                parameters,
                kernel_name="python3",
                cwd=str(NOTEBOOKS),
                progress_bar=False,
            )
    except papermill.PapermillExecutionError as error:
        return f"cell [{error.exec_count}]: {error.ename}: {error.evalue}"
    except Exception as error:  # one run's failure must not cost the others theirs
        return f"{type(error).__name__}: {error}"
    return "" if run.results(NEW) else "it wrote no results"


def _escaped(path):
    """A path as papermill takes it, which puts parameters in the place of names in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _collect(runs):
    """Write the table of all results in RUNS, and the picture of those like these runs."""
    table = []
    for path in sorted(RUNS.glob("[!.]*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found = results.rows(json.loads(path.read_text(encoding="utf-8")))
            table += [row for row in found if row.keys() >= {*results.RUN}]
    results.write(RUNS / "results.csv", table)
    alike = {(run.dataset, run.epochs) for run in runs}
    drawn = [row for row in table if (row["dataset"], row["epochs"]) in alike]
    if any(row["method"] == "baseline" for row in drawn):
        results.picture(drawn, RUNS / "figures")


def _print_table(runs):
    """A line per network: its test accuracy and size."""
    for run in runs:
        print(f"\n{run}, {run.dataset}")
        print(f"  {'network':24}{'test accuracy':>14}{'parameters':>14}")
        for row in results.rows(run.results()):
            size = f"{row['parameters']:,}" if "parameters" in row else ""
            print(f"  {row['method']:24}{row['test_accuracy']:>14.2%}{size:>14}")
    print()
