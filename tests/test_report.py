"""The report: a row a layer, totals that are the model's own, and why a layer was left alone."""

import numpy as np
import pytest

from helpers import compress, svd
from helpers.backend import keras
from helpers.compress import watch
from helpers.lab import cost

from .zoo import MODELS, NAMES, columns, inputs, lenet, sixteen_bits, text

L = keras.layers


def rows(report):
    return {row.layer: row for row in report.rows}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("text", compress.truncate),
        ("transformer", compress.factorize),
        pytest.param("resnet", compress.truncate, marks=pytest.mark.slow),
    ],
)
def test_totals_are_those_of_the_models(name, change):
    model = MODELS[name]()
    small = change(model, 2)
    report = compress.report(model, small)
    assert report.parameters == (model.count_params(), small.count_params())
    assert tuple(sum(row.parameters[i] for row in report.rows) for i in (0, 1)) == report.parameters
    assert report.multiply_adds == (cost.multiply_adds(model), cost.multiply_adds(small))
    for row in report.rows:
        assert row.rank == 2 if row.layer in NAMES[model.name] else row.rank is None
        if row.rank is None:
            assert row.note
            assert row.parameters[0] == row.parameters[1]
    text = str(report)
    assert all(row.layer in text for row in report.rows)
    assert f"{model.count_params():,}" in text
    assert ("The multiply-adds of attention are not counted." in text) == (name == "transformer")


def test_a_row_is_what_is_counted_by_hand():
    model = lenet()
    report = compress.report(model, compress.factorize(model, {"conv_2": 4}))
    conv_1, conv_2 = (rows(report)[name] for name in ("conv_1", "conv_2"))
    W = np.transpose(model.get_layer("conv_2").kernel, (0, 2, 1, 3)).reshape(30, 40)
    s = np.linalg.svd(W, compute_uv=False)
    assert conv_2[:6] == ("conv_2", "Conv2D", (30, 40), (8, 8), 4, svd.break_even_rank((30, 40)))
    assert conv_2.energy == pytest.approx(np.sum(s[:4] ** 2) / np.sum(s**2), rel=1e-6)
    assert conv_2.parameters == (150 * 8 + 8, 4 * (30 + 40) + 8)
    # 8 × 8 positions, and 8 × 12 of the vertical convolution
    assert conv_2.multiply_adds == (64 * 150 * 8, 8 * 12 * 30 * 4 + 64 * 4 * 40)
    assert conv_1.multiply_adds == (24 * 24 * 25 * 6,) * 2
    assert (conv_1.rank, conv_1.energy) == (None, None)
    assert conv_1.note == "left alone: not chosen, or its rank would not save"
    html = report._repr_html_()
    assert html.count("<tr") == 1 + 4 + 1  # head, conv_1, conv_2, fc and out, total
    assert "left alone: it gives the outputs" in html


def test_energy_can_be_that_of_the_svds_it_was_cut_by():
    model = lenet()
    seen = compress.observe(model, inputs(model), layers=["fc"])
    small = compress.factorize(model, 3, seen.svds)
    energy = rows(compress.report(model, small, seen))["fc"].energy
    assert energy == pytest.approx(svd.energy(seen.svds["fc"].s, 3))
    assert energy > rows(compress.report(model, small))["fc"].energy


def test_it_says_what_is_no_smaller_and_what_is_not_faster():
    model = lenet()
    report = compress.report(model, compress.truncate(model, {"fc": 2, "conv_2": 18}))
    notes = {name: row.note for name, row in rows(report).items() if row.rank}
    assert notes == {
        "fc": "truncated: smaller once it is factorized",
        "conv_2": "truncated, but two factors of this rank would be no smaller",
    }
    for model, name in ((text(), "words"), (columns(), "conv")):
        report = compress.report(model, compress.factorize(model, {name: 2}))
        assert report.parameters[1] < report.parameters[0]
        assert report.multiply_adds[1] >= report.multiply_adds[0]
        assert rows(report)[name].note == "smaller, not faster: no fewer multiply-adds"
        assert "Smaller, not faster" in str(report)


def test_the_rank_of_a_matrix_is_counted_whatever_its_size():
    model = keras.Sequential([keras.Input((7,)), L.Dense(9, name="fc"), L.Dense(2)])
    model.get_layer("fc").kernel.assign(1e-6 * model.get_layer("fc").kernel)
    for D, note in ((3, "smaller once it is factorized"), (4, "no smaller")):  # break-even is 3
        row = rows(compress.report(model, compress.truncate(model, D)))["fc"]
        assert row.rank == D
        assert row.note.endswith(f" {note}")
    copy = compress.truncate(model, 3)
    for W in (np.zeros((7, 9)), np.eye(7, 9)):  # trained since, to nothing or to the whole
        copy.get_layer("fc").kernel.assign(W)
        row = rows(compress.report(model, copy))["fc"]
        assert (row.rank, row.energy) == (None, None)
        assert row.note.startswith("left alone: not chosen")


def test_the_sentences_below_say_what_was_gained_and_no_more():
    chain = [L.Dense(9, name="fc"), L.LayerNormalization(), L.Dense(3, name="a<b")]
    model = keras.Sequential([keras.Input((8,)), *chain, L.Dense(2, name="out")])
    same = str(compress.report(model, model))
    assert "maller, not faster" not in same
    small = compress.factorize(model, {"fc": 2})
    measured = compress.report(
        model, small, measure=lambda net: {"bytes": 1000 * len(net.layers), "ms": 1 / 3}
    )
    assert f"{small.count_params() / model.count_params():.1%} of the parameters" in str(measured)
    assert "Fewer multiply-adds need not be less time" in str(compress.report(model, small))
    assert "a&lt;b" in measured._repr_html_()
    assert measured.measured == {"bytes": (4000, 5000), "ms": (1 / 3, 1 / 3)}
    assert str(measured).endswith("bytes: 4,000 → 5,000\nms: 0.333")


def test_too_small_dynamic_and_uncounted_layers():
    chain = [L.Dense(1, name="thin"), L.Dense(5), L.LayerNormalization(name="norm")]
    model = keras.Sequential([keras.Input((7,)), *chain, L.Dense(9, name="fc"), L.Dense(2)])
    found = rows(compress.report(model, compress.dynamic(model, {"fc": 2})))
    assert found["thin"].note == "left alone: too small for any rank to save"
    assert found["norm"].note == "no matrix"
    assert (found["fc"].rank, found["fc"].note) == (2, "dynamic: smaller once it is factorized")


@sixteen_bits
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_rank_of_sixteen_bits_is_one_beyond_rounding(dtype):
    hidden = L.Dense(40, name="fc", dtype=dtype)
    model = keras.Sequential([keras.Input((40,)), hidden, L.Dense(2, dtype=dtype)])
    assert rows(compress.report(model, compress.truncate(model, 8)))["fc"].rank == 8


def test_words_are_inputs_too():
    words = L.StringLookup(output_mode="multi_hot", vocabulary=["a", "b", "c", "d"])
    start = keras.Input((1,), dtype="string")
    model = keras.Model(start, L.Dense(3)(L.Dense(16, name="fc")(words(start))))
    report = compress.report(model, compress.factorize(model, 2))
    assert rows(report)["fc"].multiply_adds == (5 * 16, 2 * (5 + 16))


def test_a_dynamic_layer_has_the_rank_that_it_has_now():
    model = keras.Sequential([keras.Input((7,)), L.Dense(9, name="fc"), L.Dense(2)])
    dynamic = compress.dynamic(model, {"fc": 4})
    dynamic.get_layer("fc").set_rank(2)
    row = rows(compress.report(model, dynamic))["fc"]
    assert row.rank == 2
    assert row.energy == pytest.approx(svd.energy(compress.decompose(model)["fc"].s, 2))


def quantized(name):
    layer = L.Dense(4, name=name)
    layer.build((None, 7))
    layer.quantize("int8")
    return layer


BY_HAND = {
    "quantized": (quantized, (7,), 7 * 4),
    "grouped": (lambda name: L.Conv2D(4, 3, groups=2, name=name), (6, 6, 4), 4 * 4 * 4 * 9 * 2),
    "recurrent": (lambda name: L.SimpleRNN(9, name=name), (5, 4), None),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_layers_left_alone_are_counted_or_named(name):
    make, shape, expected = BY_HAND[name]
    start = keras.Input(shape)
    model = keras.Model(start, L.Dense(2, name="out")(L.Flatten()(make("layer")(start))))
    calls = [layer.call for layer in model.layers]
    report = compress.report(model, model)
    assert [layer.call for layer in model.layers] == calls  # the model is not changed
    counted = watch.multiply_adds(model)
    assert report.multiply_adds[0] == sum(count.whole for count in counted.values())
    if expected is None:
        assert rows(report)["layer"].multiply_adds is None
        assert "The multiply-adds of layer are not counted." in str(report)
    else:
        assert rows(report)["layer"].multiply_adds == (expected, expected)
        assert counted["layer"].whole == expected
        assert "not counted" not in str(report)


def test_multiply_adds_ask_for_inputs_of_known_shape():
    start = keras.Input((None,), dtype="int32")
    x = L.GlobalAveragePooling1D()(L.Embedding(30, 8, name="words")(start))
    model = keras.Model(start, L.Dense(3)(L.Dense(7, name="fc")(x)))
    report = compress.report(model, compress.factorize(model, 2))
    assert report.multiply_adds is None
    assert "not counted" in str(report)
    with pytest.raises(ValueError, match="inputs must be of known shape"):
        cost.multiply_adds(model)


def test_another_model_is_not_a_copy():
    with pytest.raises(ValueError, match="has no 'conv_1': it is not a copy of the model"):
        compress.report(lenet(), text())
