import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import psutil
import pytest

from helpers import PROJECT, data
from helpers.lab import parameters, sweep

PARTS = ("train", "test")
GOOD = {"D": 20, "dataset": "auto", "epochs": 1, "seed": 0, "results": ""}
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
    time.sleep(100)
"""


def notebook(path, *cells):
    heading = nbformat.v4.new_code_cell(
        'D: int = 20\ndataset: str = "auto"\nepochs: int = 1\nseed: int = 0\nresults: str = ""'
    )
    heading.metadata["tags"] = ["parameters"]
    write = f"NAME = {path.stem!r}" + WRITE
    nb = nbformat.v4.new_notebook(cells=[heading, *map(nbformat.v4.new_code_cell, [*cells, write])])
    nb.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(nb, path)


@pytest.fixture
def project(tmp_path):
    """The sweep, with two quick notebooks, of which the first fails at D = 3."""
    shutil.copytree(PROJECT / "helpers", tmp_path / "helpers")
    (tmp_path / "helpers" / "lab" / "store.py").write_text(
        'def baseline(data, epochs, seed): open("trained", "a").write(f"{epochs} {seed}\\n")'
    )
    (tmp_path / "notebooks").mkdir()
    notebook(tmp_path / "notebooks" / "01_a.ipynb", 'if D == 3: raise OSError("no D of 3")')
    notebook(tmp_path / "notebooks" / "02_b.ipynb")
    return tmp_path


def start(project, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "helpers", "--dataset", "subset", *arguments],
        **{"cwd": project, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
        start_new_session=True,
    )


def run_sweep(project, *arguments):
    process = start(project, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for(path):
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.1)
    raise TimeoutError(path)


def test_of_a_grid_what_is_unfinished_is_run_and_a_failure_costs_the_others_nothing(project):
    finished, damaged = (sweep.Run("02_b", D, 0, "subset", 15, "subset", "") for D in (9, 7))
    content = json.dumps(
        finished._asdict() | {"truncated": {"test_accuracy": 0.25, "parameters": 90}}
    )
    (project / ".runs").mkdir()
    (project / ".runs" / finished.path(".json").name).write_text(content)
    (project / ".runs" / damaged.path(".json").name).write_text(content[:-5])
    code, _, err = run_sweep(project, "--D", "3", "7", "9", "9", "--threads", "1")
    assert code == 1
    assert "01_a D=7 seed=0 running" in err
    assert "01_a D=3 seed=0 failed: cell [3]: OSError: no D of 3" in err
    assert "4 done, 1 failed, 0 left" in err
    assert (project / "trained").read_text() == "15 0\n"
    ran = set((project / "ran").read_text().splitlines())
    assert ran == {"01_a 7", "01_a 9", "02_b 3", "02_b 7"}
    threads = set((project / "threads").read_text().splitlines())
    assert threads == {"02_b 3 1", "02_b 7 1", "01_a 7 1", "01_a 9 1"}
    rows = list(csv.DictReader((project / ".runs" / "results.csv").open()))
    rows = [row for row in rows if row["method"] == "truncated"]
    assert [row["test_accuracy"] for row in rows] == ["0.5", "0.5", "0.5", "0.5", "0.25"]
    assert rows[0] == {
        **{"notebook": "01_a", "D": "7", "seed": "0", "dataset": "subset", "epochs": "15"},
        **{"method": "truncated", "test_accuracy": "0.5", "parameters": "70"},
    }
    assert (project / ".runs" / "figures" / "results.png").stat().st_size > 1000


def test_a_file_is_read_where_it_lies_and_named_for_what_it_holds(
    project, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(data, "MNIST_SHA256", "")
    arrays = {
        f"x_{part}": (getattr(digits, f"x_{part}") * 255).reshape(-1, 28, 28) for part in PARTS
    }
    arrays = {name: x.round().astype(np.uint8) for name, x in arrays.items()}
    arrays |= {f"y_{part}": getattr(digits, f"y_{part}") for part in PARTS}
    np.savez(tmp_path / "whole.npz", **arrays)
    monkeypatch.setenv("SVD_DATASET", str(tmp_path / "whole.npz"))
    chosen = sweep._parser().parse_args(["01"])
    (run,) = sweep._runs(chosen)
    assert (run.dataset, run.source) == ("whole.npz", str(tmp_path / "whole.npz"))
    whole = [arrays[f"{kind}_{part}"] for part in PARTS for kind in "xy"]
    monkeypatch.setattr(data, "MNIST_SHA256", data._digest(*whole))
    (run,) = sweep._runs(chosen)
    assert (run.dataset, run.source) == ("mnist", str(tmp_path / "whole.npz"))
    code, out, err = run_sweep(project, "--dataset", tmp_path / "whole.npz", "02")
    assert (code, "02_b D=20 seed=0, whole.npz" in out) == (0, True), err
    asked = "--dataset", tmp_path / "whole.npz", "02", "--dry-run"
    assert run_sweep(project, *asked)[1].startswith("finished")
    arrays["y_test"] = arrays["y_test"][::-1]
    np.savez(tmp_path / "whole.npz", **arrays)
    assert run_sweep(project, *asked)[1].startswith("to run")


def test_a_run_has_the_threads_asked_for_or_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(sweep, "CORES", 8)
    assert [sweep._threads(None, runs, None) for runs in (0, 1, 3, 9)] == [8, 8, 2, 1]
    assert [sweep._threads("4", 3, None), sweep._threads(None, 3, "tcp://host:1")] == [4, None]
    assert sweep._environment(None).keys() == {"SVD_FIGURES"}


def test_a_baseline_that_is_killed_says_so(monkeypatch):
    monkeypatch.setattr(sweep, "get_worker", lambda: SimpleNamespace(log_event=lambda *_: None))
    monkeypatch.setattr(sweep.sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="the baseline: its process ended with 1"):
        sweep.train_baseline("subset", 1, 0, 1)


def test_control_c_stops_the_workers_and_keeps_what_is_done(project):
    notebook(project / "notebooks" / "02_b.ipynb", WAIT)
    process = start(project)
    wait_for(project / "waits")
    wait_for(project / ".runs" / "01_a-subset-D20-e15-s0.json")  # done beside it
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Stopped. What is finished is kept" in err
    assert "Traceback" not in err
    assert not psutil.wait_procs(workers, timeout=100)[1]
    _, out, _ = run_sweep(project, "--dry-run")
    assert (out.count("to run"), out.count("finished")) == (1, 1)


def test_run_again_what_was_finished_is_kept_until_there_is_new(project):
    finished = sweep.Run("02_b", 20, 0, "subset", 15, "subset", "")
    (project / ".runs").mkdir()
    (project / ".runs" / finished.path(".json").name).write_text(json.dumps(finished._asdict()))
    notebook(project / "notebooks" / "02_b.ipynb", WAIT)
    process = start(project, "02", "--again")
    wait_for(project / "waits")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert "finished" in run_sweep(project, "02", "--dry-run")[1]
    notebook(project / "notebooks" / "02_b.ipynb", "1 / 0")
    assert run_sweep(project, "02", "--again")[0] == 1
    assert "to run" in run_sweep(project, "02", "--dry-run")[1]


def test_two_sweeps_at_once_run_each_notebook_once(project):
    both = [start(project, "--D", "5") for _ in range(2)]
    assert [process.communicate(timeout=300) and process.returncode for process in both] == [0, 0]
    assert sorted((project / "ran").read_text().splitlines()) == ["01_a 5", "02_b 5"]


def test_a_project_may_lie_in_a_folder_of_any_name(project, tmp_path):
    odd = tmp_path / "t oy [ü] {x}"
    odd.mkdir()
    for name in ("helpers", "notebooks"):
        shutil.move(project / name, odd)
    code, _, err = run_sweep(odd, "02")
    assert code == 0, err


def test_what_is_no_result_costs_the_others_nothing(project):
    (project / ".runs").mkdir()
    for name, content in {
        "a": "[1]",
        "b": "{}",
        "c": '{"D": 1, "m": {"test_accuracy": 1}}',
    }.items():
        (project / ".runs" / f"{name}.json").write_text(content)
    code, _, err = run_sweep(project, "02")
    assert code == 0, err
    shutil.rmtree(project / ".runs")
    (project / ".runs").write_text("")
    code, _, err = run_sweep(project, "02")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("Stopped: ")


def test_on_a_cluster_another_worker_does_what_a_killed_one_left(project):
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
        process = start(project, "01", "--scheduler", address)
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


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--D", "0"], ["--D", "5", "abc"], ["--epochs", "0.5"], ["--seed", "-1.5"], ["07"]),
        *(
            ["--D", "{[]: 1}"],
            ["--D", "True"],
            ["--epochs", "True"],
            ["--seed", "True"],
            ["--threads", "True"],
        ),
        *(
            ["--dataset", "no.npz"],
            ["--threads", "0"],
            ["--threads", "x"],
            ["--scheduler", "tcp://127.0.0.1:9"],
            ["--scheduler", "x:y"],
        ),
    ],
    ids=str,
)
def test_a_bad_argument_is_one_sentence_before_any_work(project, monkeypatch, capsys, arguments):
    monkeypatch.setattr(sweep, "NOTEBOOKS", project / "notebooks")
    monkeypatch.setattr(sweep, "RUNS", project / ".runs")
    monkeypatch.setenv("SVD_DATASET", "subset")
    assert sweep.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(Path(project / ".runs").glob("*.json"))


@pytest.mark.parametrize(
    "bad",
    [
        *({"D": True}, {"dataset": ""}, {"dataset": 5}, {"epochs": 0}, {"epochs": "3"}),
        *({"epochs": True}, {"seed": True}, {"epochs": 1.0}, {"D": 0}, {"seed": None}),
        *({"seed": -1}, {"seed": 2**32}, {"seed": 1.0}, {"results": None}, {"results": "."}),
    ],
    ids=str,
)
def test_a_bad_parameter_is_one_sentence(bad):
    parameters.check(**GOOD)
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} must be [^\n]*\\.$"):
        parameters.check(**GOOD | bad)


@pytest.mark.parametrize(
    "good",
    [{"D": 1}, {"epochs": np.int64(3)}, {"seed": 2**32 - 1}, {"results": "new.json"}],
    ids=str,
)
def test_a_parameter_at_its_edge_is_taken(good):
    parameters.check(**GOOD | good)


def test_a_run_is_recorded_with_its_parameters(tmp_path):
    about = {"notebook": "02_b", "D": 5, "dataset": "subset", "epochs": 3, "seed": 1}
    path = tmp_path / "new" / "run.json"
    measured = {"truncated": {"5": {"test_accuracy": 0.5}}}
    parameters.record(str(path), **about, measured=measured)
    assert json.loads(path.read_text(encoding="utf-8")) == about | measured


def test_without_a_path_nothing_is_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parameters.record("", "02_b", 5, "subset", 3, 1, {"truncated": {}})
    assert not list(tmp_path.iterdir())
