import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from helpers.lab import figures

# without the yellow
OKABE_ITO = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
DATA = {"ranks": [5, 20], "curves": {"plain": [0.2, 0.97], "my own": [0.3, 0.98]}}
DATA |= {"kept": [0.01, 0.04], "baseline": 0.991}


def test_no_two_methods_differ_in_colour_alone():
    looks = [(look["marker"], look["linestyle"]) for look in figures.LOOKS.values()]
    assert len(set(looks)) == len(looks)


def test_every_colour_is_of_the_palette_or_a_grey():
    palette = {to_rgb(color) for color in OKABE_ITO}
    colors = {to_rgb(look["color"]) for look in figures.STYLES.values()}
    assert all(len(set(color)) == 1 for color in colors - palette)


def test_a_method_keeps_its_look_under_its_other_names():
    assert figures.style("tangent, longer") == figures.style("dynamic")
    assert figures.style("truncated, slow") == figures.style("truncated")
    assert figures.style("plain, equal") == figures.style("truncated")
    assert figures.style("what a reader adds") == figures.UNKNOWN


def test_a_picture_goes_whole_to_the_folder_or_the_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("SVD_FIGURES", str(tmp_path / "setting"))
    figures.accuracy_by_rank(*DATA.values(), "picture")
    figure = figures.accuracy_by_rank(**DATA, name="picture", folder=tmp_path / "argument")
    pictures = sorted(tmp_path.rglob("*.*"))
    assert [p.relative_to(tmp_path).as_posix() for p in pictures] == [
        "argument/picture.png",
        "setting/picture.png",
    ]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert plt.imread(pictures[0]).shape[1] == 150 * figure.get_figwidth()


@pytest.mark.parametrize("D", [1, 3, 7, 8, 9, 50])
def test_singular_values_are_drawn_at_any_rank(D, tmp_path):
    """Layers of rank 7 and 9: D is below, between and beyond what they have."""
    histories = {f"hidden_{r}": [np.linspace(9, 1, r)] * 3 for r in (7, 9)}
    figure = figures.singular_values({"tangent": histories}, D, name="s", folder=tmp_path)
    for ax, r in zip(figure.axes, (7, 9), strict=True):
        bold = [line for line in ax.lines if line.get_linewidth() == 2]
        assert len(bold) == (D <= r) + (D < r)
        assert len(ax.lines) - len(bold) == min(2 * D, r)


def test_a_picture_that_fails_leaves_no_file_and_no_setting_changed(tmp_path):
    before, opened = plt.rcParams.copy(), plt.get_fignums()
    figures.accuracy_by_rank(**DATA, name="picture", folder=tmp_path)
    assert (plt.rcParams, plt.get_fignums()) == (before, opened)
    with pytest.raises(ValueError, match="same first dimension"):
        figures.accuracy_by_rank(**DATA | {"ranks": [5]}, name="other", folder=tmp_path)
    plt.close()
    assert plt.rcParams == before
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def test_help_names_every_argument():
    names = list(inspect.signature(figures.training_time).parameters)
    assert names == ["courses", "name", "folder"]
    with pytest.raises(TypeError, match="name"):
        figures.training_time({})


@pytest.mark.parametrize(("worst", "best"), [(0.1, 0.3), (0.15, 0.9937), (0.96, 0.99)])
def test_the_ticks_span_the_data_and_their_labels_stand_apart(worst, best, tmp_path):
    history = {"accuracy": [worst, best], "val_accuracy": [worst, best]}
    figure = figures.learning_curve(history, "picture", tmp_path)
    (ax,) = figure.axes
    ticks = ax.get_yticks()  # errors, the largest first
    assert 1 - ticks[0] <= worst < best <= 1 - ticks[-1]
    heights = ax.transData.transform([(1, tick) for tick in ticks])[:, 1] / figure.dpi * 72
    assert min(np.diff(heights)) > 10  # points; a digit is 8 high
