"""The READMEs keep their word: commands stand in them, code runs, links point to files."""

import re

import numpy as np
import pytest

from helpers import PROJECT
from helpers.backend import keras

L = keras.layers
README, HOUSE = PROJECT / "README.md", PROJECT / "helpers" / "README.md"
READMES = [README, HOUSE, PROJECT / "tests" / "README.md", PROJECT / "figures" / "README.md"]
INSTALL = "    python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt && "


def read(path):
    return path.read_text(encoding="utf-8")


def code(path):
    """All Python of a README, in its order."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", read(path), re.DOTALL | re.MULTILINE))


def test_one_line_installs_and_runs():
    text = read(README)
    assert all(f"\n{INSTALL}.venv/bin/python -m {name}\n" in text for name in ("helpers", "pytest"))
    assert len(re.findall(r"-m pytest$", text, re.MULTILINE)) == 1  # which .ci/run finds


def test_the_readme_takes_two_minutes():
    assert len(read(README).splitlines()) <= 150
    own = [line for line in code(README).splitlines() if line.strip()]
    assert len(own) <= 10


def anchors(path):
    """The headings of a page as GitHub links them."""
    headings = re.findall(r"^#+ (.*)$", read(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_links_point_to_files(path):
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", read(path))
    for link, anchor in links:
        target = path.parent / link if link else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), anchor


def test_the_house_page_shows_every_file():
    files = (PROJECT / "helpers").rglob("[!_]*.py")
    assert all(f"]({path.relative_to(HOUSE.parent).as_posix()})" in read(HOUSE) for path in files)


@pytest.fixture(scope="module")
def names(few):
    """A small LeNet on pixels in a row, trained for moments, and its data."""
    keras.utils.set_random_seed(0)
    layers = [L.Reshape((28, 28, 1)), L.Conv2D(8, 5, 3, name="conv"), L.ReLU()]
    layers += [L.Flatten(), *(L.Dense(n, "relu", name=k) for k, n in (("fc1", 50), ("fc2", 40)))]
    model = keras.Sequential([keras.Input((784,)), *layers, L.Dense(10, name="out")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(few.x_train, few.y_train, epochs=8, verbose=0)
    parts = {k: getattr(few, k) for k in ("x_train", "y_train", "x_val", "y_val")}
    return parts | {"model": model, "loss": model.loss}


def run(path, names):
    """What the Python of a README defines."""
    space = dict(names)
    exec(compile(code(path), str(path), "exec"), space)
    return space


def test_ten_lines_compress_a_model(names, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found, model = run(README, names)["found"], names["model"]
    assert found.met
    accuracy = np.mean(np.argmax(model(names["x_val"]), 1) == names["y_val"])
    assert found.score >= accuracy - 0.02
    kept = keras.saving.load_model(tmp_path / "small.keras")
    assert kept.count_params() == found.network.count_params() < model.count_params()
    said = capsys.readouterr().out
    assert f"fc1: {found.widths['fc1']}" in said.replace("'", "")
    assert "50 → " in said


@pytest.mark.slow
def test_the_tool_runs_as_written(names):
    defined = run(HOUSE, names)
    assert defined["small"].count_params() < names["model"].count_params()
    assert defined["found"].met
    assert set(defined["shrink"].ranks[-1]) == {"fc1", "fc2"}
    assert defined["D"] == defined["shrink"].ranks[-1]
