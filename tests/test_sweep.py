import contextlib
import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future

import nbformat
import numpy as np
import psutil
import pytest

from helpers import PROJECT, data
from helpers.lab import parameters, sweep

GOOD = {"D": 20, "dataset": "auto", "epochs": 1, "seed": 0, "results": ""}
SLOW, TRAIN = pytest.mark.slow, sweep.train_baseline
WRITE = """
import json, os
open("../ran", "a").write(f"{NAME} {D}\\n")
open("../threads", "a").write(f"{NAME} {D} {os.environ.get('TF_NUM_INTRAOP_THREADS')}\\n")
cut = {str(D): {"test_accuracy": 0.5, "parameters": 10 * D}, "full": {"test_accuracy": 1}}
content = {"D": D, "seed": seed, "dataset": dataset, "epochs": epochs, "truncated": cut}
assert dataset == "subset" or os.path.isfile(dataset)
content |= {"dataset": os.path.basename(dataset)}
content |= {"notebook": NAME, "baseline": {"test_accuracy": 0.9, "parameters": 1000}}
json.dump(content, open(results, "w"))
"""
# Stands still the first time, and says so.
WAIT = """
import pathlib, time
waited = pathlib.Path("../waits")
if not waited.exists():
    waited.write_text("")
    time.sleep(20)
"""


def notebook(path, *cells):
    heading = nbformat.v4.new_code_cell(
        'D: int = 20\ndataset: str = "auto"\nepochs: int = 1\nseed: int = 0\nresults: str = ""'
    )
    heading.metadata["tags"] = ["parameters"]
    write = f"NAME = {path.stem!r}" + WRITE
    nb = nbformat.v4.new_notebook(cells=[heading, *map(nbformat.v4.new_code_cell, [*cells, write])])
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb.metadata["kernelspec"] = kernel
    nbformat.write(nb, path)


@pytest.fixture
def project(tmp_path):
    """Two quick notebooks, of which the first fails at D = 3."""
    (tmp_path / "notebooks").mkdir()
    notebook(tmp_path / "notebooks" / "01_a.ipynb", 'if D == 3: raise OSError("no D of 3")')
    notebook(tmp_path / "notebooks" / "02_b.ipynb")
    (tmp_path / ".runs").mkdir()
    return tmp_path


class Here:
    """An executor that does at once what it is given, or only notes it."""

    def __init__(self, does=True):
        self.does, self.given = does, []

    def submit(self, work, *arguments):
        self.given.append((work, *arguments))
        future = Future()
        try:
            future.set_result(work(*arguments) if self.does else "")
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def run_sweep(project, monkeypatch, capsys):
    """A function that runs the sweep of the project in this process, without baselines."""
    monkeypatch.setattr(sweep, "NOTEBOOKS", project / "notebooks")
    monkeypatch.setattr(sweep, "RUNS", project / ".runs")
    trained = []
    monkeypatch.setattr(sweep, "train_baseline", lambda *what: trained.append(what) or "")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        monkeypatch.setenv(name, "2")  # what the sweep sets is taken back in the end
    monkeypatch.setenv("SVD_FIGURES", "")
    monkeypatch.setenv("SVD_DATASET", "subset")

    def run(*arguments, here=None):
        here = here or Here()
        monkeypatch.setattr(sweep, "executor", lambda *_: contextlib.nullcontext(here))
        trained.clear()
        capsys.readouterr()
        code = sweep.main([*map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    run.trained = trained
    return run


@pytest.fixture
def run_quickly(run_sweep, monkeypatch):
    """The same, with notebooks in this process, too, not in kernels, and no picture."""

    def execute(source, target, parameters, *, cwd, **options):
        names = dict(parameters)
        with contextlib.chdir(cwd):
            for cell in nbformat.read(source, 4).cells[1:]:
                exec(cell.source, names)

    monkeypatch.setattr("papermill.execute_notebook", execute)
    monkeypatch.setattr("helpers.lab.results.picture", lambda *_: None)
    return run_sweep


@pytest.fixture
def command(project):
    """A function that starts the sweep's command in the project, with SIGINT ignored."""
    shutil.copytree(PROJECT / "helpers", project / "helpers")
    (project / "helpers" / "lab" / "store.py").write_text("def baseline(*_): pass")
    (project / "figures").mkdir()
    shutil.copy(PROJECT / "figures" / "published.csv", project / "figures")

    def start(*arguments, folder=project):
        ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
        return subprocess.Popen(
            [*ignoring, sys.executable, "-m", "helpers", "--dataset", "subset", *arguments],
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    return start


def wait_for(path):
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.1)
    raise TimeoutError(path)


def test_a_grid_is_finished_though_one_run_fails(project, run_sweep):
    """In kernels, as the command runs it."""
    finished, damaged = (sweep.Run("02_b", D, 0, "subset", 15, "subset", "") for D in (9, 7))
    content = json.dumps(
        finished._asdict() | {"truncated": {"test_accuracy": 0.25, "parameters": 90}}
    )
    finished.path(".json").write_text(content)
    damaged.path(".json").write_text(content[:-5])
    code, out, err = run_sweep("--D", 3, 7, 9, 9, "--threads", 1)
    assert code == 1
    assert "finished: 1 of 6 runs\n" in err
    assert "01_a D=3 seed=0 failed: cell [3]: OSError: no D of 3" in err
    assert "4 done, 1 failed, 0 left" in err
    assert run_sweep.trained == [("subset", 15, 0, sweep.CORES)]
    ran = set((project / "threads").read_text().splitlines())
    assert ran == {"01_a 7 1", "01_a 9 1", "02_b 3 1", "02_b 7 1"}
    rows = list(csv.DictReader((project / ".runs" / "results.csv").open()))
    rows = [row for row in rows if row["method"] == "truncated"]
    assert [row["test_accuracy"] for row in rows] == ["0.5", "0.5", "0.5", "0.5", "0.25"]
    assert (project / ".runs" / "figures" / "results.png").stat().st_size > 1000
    assert "  truncated                       50.00%            70\n" in out


def test_a_failed_run_again_has_no_results(project, run_quickly):
    assert run_quickly("02", "--D", 9)[0] == 0
    notebook(project / "notebooks" / "02_b.ipynb", "1 / 0")
    assert run_quickly("02", "--D", 9)[0] == 0  # kept
    assert run_quickly("02", "--D", 9, "--again")[0] == 1
    assert "to run" in run_quickly("02", "--D", 9, "--dry-run")[1]


def test_a_file_is_known_by_what_it_holds(project, run_quickly, digits, monkeypatch):
    path, arrays = project / "whole.npz", {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = np.zeros((240, 28, 28), np.uint8)
        arrays[f"y_{part}"] = np.arange(240) % 10
    np.savez(path, **arrays)
    code, out, err = run_quickly("--dataset", path, "02")
    assert (code, "02_b D=20 seed=0, whole.npz" in out) == (0, True), err
    assert run_quickly.trained == [(str(path), 15, 0, sweep.CORES)]
    monkeypatch.setenv("SVD_DATASET", str(path))
    assert run_quickly("02", "--dry-run")[1].startswith("finished")
    whole = dataclasses.replace(digits, name="mnist")
    with monkeypatch.context() as patch:  # a file that holds whole MNIST
        patch.setattr(data, "load", lambda dataset: whole)
        here = Here(does=False)
        run_quickly("02", here=here)
        run = here.given[1][1]
        assert (run.dataset, run.source, run.digest) == ("mnist", str(path), "")
    arrays["y_test"] = arrays["y_test"][::-1]
    np.savez(path, **arrays)
    assert run_quickly("02", "--dry-run")[1].startswith("to run")


@pytest.mark.parametrize(
    ("arguments", "threads", "share"),
    [
        (["--D", "1"], 4, 8),
        (["--D", "1", "2", "3", "--seed", "1", "2"], 1, 4),
        (["--D", "1", "--threads", "5"], 5, 8),
        (["--D", "1", "--scheduler", "tcp://host:1"], None, None),  # which keeps the environment
    ],
    ids=str,
)
def test_runs_share_the_cores(project, run_quickly, monkeypatch, arguments, threads, share):
    monkeypatch.setattr(sweep, "CORES", 8)
    here = Here()
    run_quickly(*arguments, here=here)
    tasks = {work.__name__: arguments for work, *arguments in here.given}
    assert [tasks["<lambda>"][3], tasks["execute"][1]] == [share, threads]
    lines = (project / "threads").read_text().splitlines()
    assert {line.split()[-1] for line in lines} == {str(threads or 2)}


def test_without_a_baseline_its_runs_fail(project, run_quickly, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sweep.sys, "executable", shutil.which("false"))
        ended = TRAIN("subset", 1, 0, 1)
    assert ended == "the baseline: its process ended with 1"
    monkeypatch.setattr(sweep, "train_baseline", lambda *about: ended if about[2] else "")
    code, _, err = run_quickly("02", "--seed", 0, 1)
    assert (code, f"02_b D=20 seed=1 failed: {ended}" in err) == (1, True)
    assert (project / "ran").read_text() == "02_b 20\n"


def test_the_start_says_what_comes(project, run_quickly):
    other = sweep.Run("02_b", 20, 2, "subset", 15, "subset", "")  # not what its name says
    other._replace(seed=1).path(".json").write_text(json.dumps(other._asdict()))
    err = run_quickly("--dry-run", "--seed", 0, 1)[2].splitlines()
    assert err[0] == "Digits: subset, 3,500 to train, 500 to validate, 1,000 to test."
    plan = ["notebook: 01_a, 02_b", "D: 20", "seed: 0, 1", "finished: 0 of 4 runs"]
    assert err[1:5] == plan
    assert re.fullmatch(r"time: about [1-9]\d* min here", err[5])
    run_quickly("02")
    assert run_quickly("02")[2].splitlines()[4:] == ["finished: 1 of 1 runs"]


def test_an_unreadable_result_costs_the_others_nothing(project, run_quickly):
    about = {"notebook": "a", "D": "x", "seed": 0, "dataset": "s", "epochs": 1}
    for i, content in enumerate(([1], {}, {"D": 1, "m": {"test_accuracy": 1}}, about)):
        (project / ".runs" / f"{i}.json").write_text(json.dumps(content))
    code, _, err = run_quickly("02")
    assert code == 0, err
    rows = list(csv.DictReader((project / ".runs" / "results.csv").open()))
    assert {row["notebook"] for row in rows} == {"02_b"}


def test_a_folder_that_cannot_be_made_is_one_sentence(project, run_sweep):
    (project / ".runs").rmdir()
    (project / ".runs").write_text("")
    code, _, err = run_sweep("02")
    assert (code, err.splitlines()[-1].startswith("Stopped: ")) == (1, True)


FAULTY = ["--D 5 abc", "--epochs 0.5", "--seed -1.5", "07", "--D {[]:1}", "--D True"]
FAULTY += ["--dataset no.npz", "--threads True", "--threads 0"]


@pytest.mark.parametrize("arguments", FAULTY)
def test_a_bad_argument_is_one_sentence(project, run_sweep, arguments):
    here = Here()
    code, out, err = run_sweep(*arguments.split(), here=here)
    said = [line for line in err.splitlines() if not line.startswith("Digits: ")]
    assert (code, out, len(said), here.given) == (2, "", 1, [])


@pytest.mark.parametrize("address", [pytest.param("tcp://127.0.0.1:9", marks=SLOW), "x:y"])
def test_an_address_without_a_scheduler_is_one_sentence(address):
    with (
        pytest.raises(ValueError, match=f"^no Dask scheduler answers at '{address}'\\.$"),
        sweep.executor(address, 1),
    ):
        pass


@SLOW
def test_control_c_stops_all_and_keeps_what_is_done(project, command, run_sweep):
    """SIGINT is ignored where the command starts, as under nohup."""
    old = sweep.Run("02_b", 20, 0, "subset", 15, "subset", "")
    old.path(".json").write_text(json.dumps(old._asdict()))
    notebook(project / "notebooks" / "02_b.ipynb", WAIT)
    process = command("--again", "--threads", "1")
    wait_for(project / "waits")
    if sweep.CORES > 1:  # done beside it
        wait_for(project / ".runs" / "01_a-subset-D20-e15-s0.json")
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2  # a worker, a kernel
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Stopped. What is finished is kept" in err
    assert "Traceback" not in err
    assert not psutil.wait_procs(children, timeout=15)[1]
    assert not (project / "ran").exists() or "02_b" not in (project / "ran").read_text()
    out = run_sweep("--dry-run")[1]
    assert out.count("finished") == (2 if sweep.CORES > 1 else 1)


@SLOW
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_with_the_sweep_the_training_of_the_baseline_stops(project, command, sent):
    (project / "helpers" / "lab" / "store.py").write_text(
        "def baseline(*_):\n import time\n open('waits', 'w')\n time.sleep(20)"
    )
    process = command("02")
    wait_for(project / "waits")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sent)
    process.wait(timeout=100)
    assert process.returncode == (130 if sent == signal.SIGINT else -sent)
    assert not psutil.wait_procs(children, timeout=15)[1]


@SLOW
def test_two_sweeps_in_a_folder_of_any_name_run_a_notebook_once(project, command):
    odd = project / "t oy [ü] {x}"
    odd.mkdir()
    for name in ("helpers", "notebooks", "figures"):
        shutil.move(project / name, odd)
    both = [command("02", "--D", "5", folder=odd) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert (odd / "ran").read_text() == "02_b 5\n"


@SLOW
def test_on_a_cluster_the_work_of_a_killed_worker_is_done(project, command):
    notebook(project / "notebooks" / "01_a.ipynb", WAIT)
    file = project / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_"]
    local = {"cwd": project, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    local["env"] = os.environ | {"PYTHONPATH": str(project)}

    def cluster(part, *options):
        command = [*dask[:-1], dask[-1] + part, "--no-dashboard", *options]
        return subprocess.Popen(command, **local)

    scheduler = cluster("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file)
    wait_for(file)
    address = json.loads(file.read_text())["address"]
    workers = [cluster("worker", address, "--nthreads", "1", "--no-nanny") for _ in range(2)]
    try:
        process = command("01", "--scheduler", address)
        wait_for(project / "waits")
        (busy,) = [w for w in workers if psutil.Process(w.pid).children()]
        busy.kill()
        _, err = process.communicate(timeout=300)
        assert (process.returncode, "1 done, 0 failed" in err) == (0, True), err
        assert len((project / "ran").read_text().splitlines()) == 1
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


BAD = {"D": (True, 0), "dataset": ("", 5), "epochs": (0, 1.0, "3"), "results": (None, ".")}
BAD |= {"seed": (True, None, -1, 2**32)}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_parameter_is_one_sentence(name):
    edges = {"D": 1, "epochs": np.int64(3), "seed": 2**32 - 1, "results": "new.json"}
    for good in (GOOD, GOOD | edges):
        parameters.check(**good)
    for bad in BAD[name]:
        with pytest.raises(ValueError, match=f"^{name} must be [^\n]*\\.$"):
            parameters.check(**GOOD | {name: bad})


def test_a_run_is_recorded_with_its_parameters(tmp_path, monkeypatch):
    about = {"notebook": "02_b", "D": 5, "dataset": "subset", "epochs": 3, "seed": 1}
    path, measured = tmp_path / "new" / "run.json", {"truncated": {"5": {"test_accuracy": 0.5}}}
    monkeypatch.chdir(tmp_path)
    parameters.record("", **about, measured=measured)  # nowhere
    assert not list(tmp_path.iterdir())
    parameters.record(str(path), **about, measured=measured)
    assert json.loads(path.read_text(encoding="utf-8")) == about | measured
