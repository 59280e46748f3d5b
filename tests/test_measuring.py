"""The measuring scripts run, on a small network and few digits; what they find is not judged."""

import pytest

from helpers import data, model
from helpers.lab import results, store
from tests.measuring import networks, step, tool


@pytest.fixture(autouse=True)
def small_network(tmp_path, monkeypatch, few):
    build = model.build
    monkeypatch.setattr(model, "build", lambda seed, width=24: build(seed, width))
    monkeypatch.setattr(store, "CACHE", tmp_path)
    monkeypatch.setattr(results, "RUNS", tmp_path)
    monkeypatch.setattr(data, "load", lambda name="auto": few)


@pytest.mark.slow
def test_networks_of_every_method_are_measured(tmp_path, capsys):
    networks.main(["--D", "2", "--seed", "0", "--epochs", "1"])
    found = results.read(tmp_path / "measure.csv")
    assert {*found["method"]} == {*networks.METHODS}
    assert capsys.readouterr().out.count(" seed=0 validation ") == len(networks.METHODS)


@pytest.mark.slow
def test_a_lenet_is_compressed_to_a_size(few, monkeypatch, capsys):
    monkeypatch.setattr(tool, "SIZES", (13_100,))
    monkeypatch.setattr(tool, "SAMPLES", 100)
    tool.print_lenets(few, 1, [0], [])
    row = capsys.readouterr().out.splitlines()[-1].split("|")
    most, found = (int(cell.replace(",", "")) for cell in row[2:4])
    assert 0.9 * most < found <= most == 13_100


def test_a_goal_for_the_network_is_met(few, capsys):
    tool.print_goals(few, 1, [0])
    assert "cannot be met" not in capsys.readouterr().out


def test_steps_are_timed_beside_their_limits(capsys):
    assert step.main(["--width", "32", "--D", "4", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + 2 * (2 + len(step.layers.DERIVATIVES)) + 1
