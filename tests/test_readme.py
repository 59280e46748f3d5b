"""What README says about a model of one's own runs as written."""

import numpy as np
import pytest

from helpers import PROJECT
from helpers.backend import keras

L = keras.layers


def blocks():
    """The indented blocks of the section."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Your own model\n")[1].split("\n## ")[0]
    found, lines = [], []
    for line in [*section.splitlines(), "end"]:
        if line.startswith("    ") or (lines and not line):
            lines.append(line[4:])
        elif lines:
            found.append("\n".join(lines).strip())
            lines = []
    return found


@pytest.fixture(scope="module")
def model(few):
    """A small LeNet on pixels in a row, trained for moments."""
    keras.utils.set_random_seed(0)
    start = [keras.Input((784,)), L.Reshape((28, 28, 1)), L.Conv2D(8, 5, 2, "valid", name="conv")]
    middle = [
        L.ReLU(),
        L.Flatten(),
        L.Dense(50, "relu", name="fc1"),
        L.Dense(40, "relu", name="fc2"),
    ]
    model = keras.Sequential([*start, *middle, L.Dense(10, name="out")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(few.x_train, few.y_train, epochs=8, verbose=0)
    return model


@pytest.mark.parametrize("i", range(2))
def test_the_lines_run_as_written(i, model, few, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(blocks()) == 2
    names = {"model": model, "loss": model.loss}
    parts = {k: getattr(few, k) for k in ("x_train", "y_train", "x_val", "y_val")}
    exec(compile(blocks()[i], "README.md", "exec"), names | parts | (space := {}), space)
    small = space["small"]
    assert small.count_params() < model.count_params()
    assert small(few.x_val[:2]).shape == (2, 10)
    if i == 0:
        assert len([line for line in blocks()[0].splitlines() if line.strip()]) <= 14
        found = space["found"]
        assert found.met
        assert found.score >= np.mean(np.argmax(model(few.x_val), 1) == few.y_val) - 0.02
        assert (
            keras.saving.load_model(tmp_path / "small.keras").count_params() == small.count_params()
        )
        assert "left alone: it gives the outputs" in capsys.readouterr().out
