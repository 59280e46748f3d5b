import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from helpers.lab import figures

# without the yellow
OKABE_ITO = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
LOOKS = [*figures.LOOKS.values(), *figures.LAYERS, figures.UNKNOWN]
DATA = {"x": [5, 20], "by_method": {"plain": [0.2, 0.97], "my own": [0.3, 0.98]}}
DATA |= {"xlabel": "D", "xscale": "log", "kept": [0.01, 0.04], "baseline": 0.991}


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def test_no_two_methods_differ_in_colour_alone():
    looks = [(look["marker"], look["linestyle"]) for look in figures.LOOKS.values()]
    assert len(set(looks)) == len(looks)


def test_every_colour_is_of_the_palette_and_stands_out():
    """The palette's, made darker, or a grey; by WCAG 2.2, 3 for what a picture needs."""
    for color in {to_rgb(look["color"]) for look in LOOKS}:
        shades = [np.array(to_rgb(c)) * max(color) / max(*to_rgb(c), 1e-9) for c in OKABE_ITO]
        assert len(set(color)) == 1 or min(np.abs(color - s).max() for s in shades) < 0.01
        assert 1.05 / (luminance(color) + 0.05) >= 3


def test_a_variant_is_hollow_and_dotted_in_its_methods_colour():
    variant, tangent = figures.style("tangent, longer"), figures.style("tangent")
    assert (variant["color"], variant["marker"]) == (tangent["color"], tangent["marker"])
    assert (variant["markerfacecolor"], variant["linestyle"]) == ("white", ":")
    assert figures.style("dynamic, shrinking ranks") is figures.LOOKS["dynamic, shrinking ranks"]
    assert figures.style("what a reader adds") == figures.UNKNOWN


def test_a_picture_goes_whole_to_the_folder_or_the_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("SVD_FIGURES", str(tmp_path / "setting"))
    figures.curves(**DATA, name="picture")
    figure = figures.curves(**DATA, name="picture", folder=tmp_path / "argument")
    pictures = sorted(tmp_path.rglob("*.*"))
    assert pictures == [tmp_path / name / "picture.png" for name in ("argument", "setting")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert plt.imread(pictures[0]).shape[1] == 150 * figure.get_figwidth()


def test_a_failing_picture_leaves_no_file_and_no_setting(tmp_path):
    before, opened = plt.rcParams.copy(), plt.get_fignums()
    figures.curves(**DATA, name="picture", folder=tmp_path)
    assert (plt.rcParams, plt.get_fignums()) == (before, opened)
    with pytest.raises(ValueError, match="same first dimension"):
        figures.curves(**DATA | {"x": [5]}, name="other", folder=tmp_path)
    plt.close()
    assert plt.rcParams == before
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def test_curves_are_errors_at_their_x_with_the_kept_below(tmp_path):
    figure = figures.curves(**DATA, name="picture", folder=tmp_path)
    (ax,), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.texts] == ["plain", "my own", "baseline"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["5\n1.0%", "20\n4.0%"]
    assert np.allclose(ax.lines[0].get_xydata(), [[5, 0.8], [20, 0.03]])
    own = {"plain": [1, 2], "my own": [2, 3]}
    figure = figures.curves(own, DATA["by_method"], "picture", tmp_path, xlabel="s")
    (ax,) = figure.axes
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 2], [2, 3]]


def test_error_bars_stand_at_their_x_and_do_not_stretch_the_axis(tmp_path):
    seeds = {"plain": {5: [0.2, 0.4], 20: [0.96, 0.98]}}
    bare, barred = (
        figures.curves(**DATA, seeds=bars, name="picture", folder=tmp_path).axes[0]
        for bars in (None, seeds)
    )
    assert barred.get_xlim() == bare.get_xlim()
    ends = [bar[:, 1] for bar in barred.collections[0].get_segments()]
    assert np.allclose(np.mean(ends, axis=1), [0.7, 0.03])


@pytest.mark.parametrize(
    ("worst", "best"), [(0.1, 0.3), (0.15, 0.9937), (0.96, 0.99), (0.9, 1), (1, 1)]
)
def test_the_ticks_span_the_data_and_their_labels_stand_apart(worst, best, tmp_path):
    by_method = {"validation": [worst, best]}
    figure = figures.curves([1, 2], by_method, "picture", tmp_path, xlabel="epoch")
    (ax,) = figure.axes
    ticks = [1 - float(label.get_text()[:-1]) / 100 for label in ax.get_yticklabels()]
    drawn = 1 - ax.lines[0].get_ydata()
    assert np.allclose(drawn, [worst, best], atol=6e-4)  # 100 % is at no place on this axis
    assert 1 - ticks[0] <= min(drawn)
    assert max(drawn) <= 1 - ticks[-1] + 1e-9
    heights = ax.transData.transform([(1, tick) for tick in ticks])[:, 1] / figure.dpi * 72
    assert min(np.diff(heights)) > 10  # points; a digit is 8 high


@pytest.mark.parametrize("D", [1, 3, 7, 8, 9, 50])
def test_singular_values_are_drawn_at_any_rank(D, tmp_path):
    """Layers of rank 7 and 9: D is below, between and beyond what they have."""
    histories = {f"hidden_{r}": [np.linspace(9, 1, r)] * 3 for r in (7, 9)}
    figure = figures.singular_values({"tangent": histories}, D, name="s", folder=tmp_path)
    for ax, r in zip(figure.axes, (7, 9), strict=True):
        bold = [line for line in ax.lines if line.get_linewidth() == 2]
        assert len(bold) == (D <= r) + (D < r)
        assert len(ax.lines) - len(bold) == r
