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
    monkeypatch.setattr(data, "load", lambda: few)


@pytest.mark.slow
def test_networks_of_every_method_are_measured(tmp_path, capsys):
    networks.main(["--D", "2", "--seed", "0", "--epochs", "1"])
    found = results.read(tmp_path / "measure.csv")
    assert {*found["method"]} == {*networks.METHODS}
    assert capsys.readouterr().out.count(" seed=0 validation ") == len(networks.METHODS)


@pytest.mark.slow
def test_networks_are_cut_to_a_size_in_several_ways(few, monkeypatch, capsys):
    monkeypatch.setattr(tool, "SIZES", {"lenet": (13_100,), "course": (3000,)})
    monkeypatch.setattr(tool, "SAMPLES", {"lenet": 300, "course": 300})
    for name, (size,) in tool.SIZES.items():
        tool.print_sizes(name, few, 1, 3, [0])
        for line in capsys.readouterr().out.splitlines()[-4:]:
            most, found = (int(line.split("|")[i].replace(",", "")) for i in (2, 4))
            assert 0.9 * most < found <= most == size


@pytest.mark.slow
def test_steps_are_timed_beside_their_limits(capsys):
    step.main(["--width", "32", "--D", "4", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + 2 * (2 + len(step.layers.DERIVATIVES)) + 1
