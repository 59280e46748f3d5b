import json

import nbformat
import pytest

from helpers import parameters, sweep

GOOD = {"D": 20, "dataset": "auto", "epochs": 1, "seed": 0, "results": ""}


def notebook(path, *cells):
    heading = nbformat.v4.new_code_cell(
        'D: int = 20\ndataset: str = "auto"\nepochs: int = 1\nseed: int = 0\nresults: str = ""'
    )
    heading.metadata["tags"] = ["parameters"]
    nb = nbformat.v4.new_notebook(cells=[heading, *map(nbformat.v4.new_code_cell, cells)])
    nb.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(nb, path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two notebooks, of which the first fails at D = 3."""
    monkeypatch.setattr(sweep, "PROJECT", tmp_path)
    monkeypatch.setattr(sweep, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(sweep, "RUNS", tmp_path / ".runs")
    monkeypatch.setenv("SVD_FIGURES", "")  # restored afterwards
    (tmp_path / "notebooks").mkdir()
    write = (
        'import json\nbase = {"D": D, "seed": seed, "dataset": "x", "epochs": epochs}\n'
        'base["cut"] = {str(D): {"test_accuracy": 0.5, "parameters": 10 * D}}\n'
        'open(results, "w").write(json.dumps(base))'
    )
    notebook(tmp_path / "notebooks" / "01_a.ipynb", 'if D == 3: raise OSError("no D of 3")', write)
    notebook(tmp_path / "notebooks" / "02_b.ipynb", write)
    return tmp_path


def test_parameters_reach_the_notebooks_and_results_come_back(project, capsys):
    assert sweep.main(["-p", "D", "7"]) == 0
    assert json.loads((project / ".runs" / "02_b.json").read_text())["D"] == 7
    assert (project / ".runs" / "01_a.ipynb").exists()
    out = capsys.readouterr().out
    assert out.count("cut, D = 7") == 2
    assert "50.00%" in out


def test_a_failure_is_named_and_costs_the_others_nothing(project, capsys):
    assert sweep.main(["-p", "D", "3"]) == 1
    said = capsys.readouterr()
    assert "01_a failed: cell [3]: OSError: no D of 3" in said.err
    assert "02_b: D = 3" in said.out
    assert not (project / ".runs" / "01_a.json").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("D", "0"), ("D", "abc"), ("epochs", "0.5"), ("rank", "3"), ("results", "x")],
)
def test_a_bad_argument_is_one_sentence_before_any_work(project, capsys, name, value):
    assert sweep.main(["-p", name, value]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (project / ".runs").exists()


@pytest.mark.parametrize(
    "bad",
    [
        *({"D": True}, {"dataset": ""}, {"dataset": 5}, {"epochs": 0}, {"epochs": "3"}),
        *({"seed": -1}, {"seed": 2**32}, {"seed": 1.0}, {"results": None}, {"results": "."}),
    ],
    ids=str,
)
def test_a_bad_parameter_is_one_sentence(bad):
    parameters.check(**GOOD)
    with pytest.raises(ValueError, match=f"^{next(iter(bad))} must be [^\n]*\\.$"):
        parameters.check(**GOOD | bad)
