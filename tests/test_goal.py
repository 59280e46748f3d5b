"""A goal in the place of ranks: sizes, energy, multiply-adds, a score."""

import math
from unittest import mock

import numpy as np
import pytest

from helpers import compress, svd
from helpers.backend import keras
from helpers.compress import goal, watch
from helpers.compress.goal import find_ranks
from helpers.lab import cost
from helpers.ranks import shared_ranks

from .zoo import MODELS, columns, inputs, lenet, matches, resnet, text

L = keras.layers


def chain():
    hidden = [L.Dense(n, "tanh", name=f"d{n}") for n in (30, 24, 20)]
    return keras.Sequential([keras.Input((28,)), *hidden, L.Dense(4, name="out")])


def closeness(model, x):
    """A score that falls with the distance to the model's outputs; the model's own is 1."""

    def evaluate(network):
        return 1 - float(np.mean((network(x) - model(x)) ** 2) / np.var(model(x)))

    return evaluate


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_size_is_kept_to_and_used(make, share):
    model = make()
    adds = watch.multiply_adds(model)
    fixed = adds["attention"].whole if "attention" in adds else 0  # no rank makes it less
    for name, size in (
        ("parameters", int(share * model.count_params())),
        ("multiply_adds", int(fixed + share * (cost.multiply_adds(model) - fixed))),
    ):
        found = find_ranks(model, **{name: size})
        assert found.met
        count = {"parameters": found.network.count_params()}
        count["multiply_adds"] = cost.multiply_adds(found.network)
        assert 0.75 * size < count[name] <= size
        assert found.network.count_params() == compress.kept_parameters(model, found.ranks)
    by_share = find_ranks(model, fraction=share)
    assert by_share.ranks == find_ranks(model, parameters=int(share * model.count_params())).ranks


def test_below_break_even_the_ranks_are_those_that_share_a_budget():
    model = chain()
    svds = compress.decompose(model)
    shared = dict(zip(svds, shared_ranks(svds, 5), strict=True))
    found = find_ranks(model, parameters=compress.kept_parameters(model, shared))
    assert found.ranks == shared
    matches(found.network(x := np.eye(28, dtype="float32")), compress.factorize(model, shared)(x))


def test_a_layer_beyond_break_even_stays_as_it_is():
    model = chain()
    found = find_ranks(model, fraction=0.95)
    edges = {n: svd.break_even_rank(model.get_layer(n).kernel.shape) for n in ("d30", "d24", "d20")}
    assert all(D <= edges[name] for name, D in found.ranks.items())
    assert set(found.ranks) < set(edges)
    names = {layer.name for layer in found.network.layers}
    for name in edges.keys() - found.ranks.keys():
        assert name in names
    whole = find_ranks(model, fraction=1)
    assert (whole.ranks, whole.met) == ({}, True)
    assert whole.network.count_params() == model.count_params()


def test_the_last_rank_that_saves_and_the_least_size_are_had():
    model = chain()
    for D in (1, svd.break_even_rank((28, 30))):
        size = compress.kept_parameters(model, {"d30": D})
        found = find_ranks(model, parameters=size, layers=["d30"])
        assert (found.ranks, found.met) == ({"d30": D}, True)
        assert found.network.count_params() == size


def test_every_layer_keeps_its_share_of_the_energy_and_no_more():
    model = resnet()
    svds = compress.decompose(model)
    found = find_ranks(model, energy=0.5)
    assert found.ranks
    for name, D in found.ranks.items():
        assert svd.energy(svds[name].s, D) >= 0.5
        assert D == 1 or svd.energy(svds[name].s, D - 1) < 0.5
    for name in svds.keys() - found.ranks.keys():
        shape = len(svds[name].U), svds[name].Vt.shape[1]
        assert svd.energy(svds[name].s, max(1, svd.break_even_rank(shape))) < 0.5


def test_all_the_energy_takes_the_rank_of_the_matrix():
    model = keras.Sequential([keras.Input((20,)), L.Dense(20, name="fc"), L.Dense(3)])
    rng, kernel = np.random.default_rng(0), model.get_layer("fc").kernel
    kernel.assign(rng.normal(size=(20, 2)) @ rng.normal(size=(2, 20)))
    for multiple, D in ((1, 2), (4, 4), (9, 9)):  # break-even is 9
        assert find_ranks(model, energy=1, multiple=multiple).ranks == {"fc": D}
    kernel.assign(0 * kernel)
    with np.errstate(divide="raise", invalid="raise"):
        assert find_ranks(model, energy=1).ranks == {"fc": 1}


@pytest.mark.parametrize("arguments", [{"fraction": 0.7}, {"energy": 0.6}, {"multiply_adds": 1400}])
def test_ranks_are_multiples(arguments):
    ranks = find_ranks(chain(), **arguments, multiple=4).ranks
    assert ranks
    assert all(D % 4 == 0 for D in ranks.values())


def test_multiply_adds_are_counted_once_and_layers_left_alone_among_them():
    start = keras.Input((9, 9, 8))
    x = L.Conv2D(30, 3, name="conv")(L.DepthwiseConv2D(3, name="depthwise")(start))
    model = keras.Model(start, L.Dense(3, name="out")(L.GlobalAveragePooling2D()(x)))
    rest, pair = 49 * 9 * 8 + 30 * 3, 25 * (72 + 30)
    with mock.patch.object(watch, "multiply_adds", wraps=watch.multiply_adds) as counting:
        found = find_ranks(model, multiply_adds=rest + 5 * pair)
        assert counting.call_count == 1
    assert found.ranks == {"conv": 5}
    assert cost.multiply_adds(found.network) == rest + 5 * pair
    assert find_ranks(model, multiply_adds=rest + 5 * pair - 1).ranks == {"conv": 4}


def test_a_rank_of_as_many_multiply_adds_as_the_layer_is_none():
    model = columns()
    whole = cost.multiply_adds(model)
    with np.errstate(divide="raise", invalid="raise"):
        assert find_ranks(model, multiply_adds=whole).ranks == {}
        assert find_ranks(model, multiply_adds=whole - 1).ranks == {"conv": 1}


def test_a_lookup_is_not_factorized_for_fewer_multiply_adds():
    model = text()
    found = find_ranks(model, multiply_adds=int(0.5 * cost.multiply_adds(model)))
    assert "words" not in found.ranks
    assert "words" in find_ranks(model, fraction=0.5).ranks


def test_a_size_that_no_ranks_have_gives_the_nearest_and_says_so():
    model = chain()
    found = find_ranks(model, parameters=50, evaluate=closeness(model, np.eye(28, dtype="float32")))
    assert not found.met
    assert found.ranks == {"d30": 1, "d24": 1, "d20": 1}
    assert "cannot be met" in str(found)
    assert found.curve == [goal.Point(found.network.count_params(), found.score)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("make", [chain, lenet])
def test_a_score_is_reached_by_a_network_that_was_measured(make, weighted):
    model = make()
    x = np.random.default_rng(0).normal(size=(200, 28)).astype("float32")
    x = x if make is chain else inputs(model, 200)
    evaluate, seen = closeness(model, x), {"inputs": x} if weighted else {}
    measured = []

    def counting(network):
        measured.append(goal.Point(network.count_params(), evaluate(network)))
        return measured[-1].score

    found = find_ranks(model, score=0.5, evaluate=counting, **seen)
    assert found.met
    assert found.score == evaluate(found.network) >= 0.5
    assert found.curve == sorted(measured)
    assert measured[0].parameters == model.count_params()
    assert len(measured) <= goal.EVALUATIONS
    enough = [point for point in measured if point.score >= 0.5]
    assert found.network.count_params() == min(enough).parameters < model.count_params()
    # And one step smaller was measured, too, and is not good enough.
    missed = [point.parameters for point in measured if point.score < 0.5]
    assert not missed or max(missed) >= 0.9 * found.network.count_params()
    again = find_ranks(model, score=0.5, evaluate=evaluate, **seen)
    assert (again.ranks, again.curve) == (found.ranks, found.curve)


def test_weighing_what_is_seen_reaches_a_score_with_less():
    model = lenet()
    x = inputs(model, 300)
    evaluate = closeness(model, x)
    plain, seen = (
        find_ranks(model, score=0.9, evaluate=evaluate, **a) for a in ({}, {"inputs": x})
    )
    assert seen.network.count_params() < plain.network.count_params()


def of_size(share, model, sizes):
    """A score of 1 for networks above this share of the model's size, which it notes."""

    def evaluate(network):
        sizes.append(network.count_params() / model.count_params())
        return int(sizes[-1] > share)

    return evaluate


def test_for_a_score_small_networks_are_measured_first():
    model, sizes = chain(), []
    find_ranks(model, score=1, evaluate=of_size(0.9, model, sizes))
    assert sizes[0] == 1
    assert sizes[1] <= 1 / 4 < sizes[2] <= 1 / 2 < sizes[3]


def test_no_more_networks_are_measured_than_allowed(monkeypatch):
    monkeypatch.setattr(goal, "EVALUATIONS", 4)
    model, sizes = chain(), []
    found = find_ranks(model, score=1, evaluate=of_size(0.7, model, sizes))
    assert len(sizes) == len(found.curve) == 4


def test_a_network_close_in_size_to_one_that_missed_the_score_is_small_enough():
    model, sizes = keras.Sequential([keras.Input((600,)), L.Dense(600), L.Dense(2)]), []
    find_ranks(model, score=1, evaluate=of_size(0.6, model, sizes))
    gaps = [
        min(size for size in sizes[:n] if size > 0.6)
        / max(size for size in sizes[:n] if size <= 0.6)
        for n in (len(sizes) - 1, len(sizes))
    ]
    assert gaps[0] > goal.CLOSE >= gaps[1]


def test_a_score_that_anything_reaches_ends_at_rank_one():
    mostly_outputs = keras.Sequential([keras.Input((99,)), L.Dense(99), L.Dense(999)])
    for model in (chain(), mostly_outputs):
        found = find_ranks(model, score=0, evaluate=lambda network: 0.0)
        assert set(found.ranks.values()) == {1}


def test_a_score_that_only_the_model_reaches_leaves_it_alone():
    model = chain()
    whole = model.count_params()
    found = find_ranks(
        model, score=1, evaluate=lambda network: int(network.count_params() == whole)
    )
    assert (found.ranks, found.met, found.network is model) == ({}, True, True)
    assert len(found.curve) <= goal.EVALUATIONS


BAD = {
    "none": ({}, "give one goal of parameters, fraction, energy.*; given: none"),
    "two": ({"fraction": 0.5, "energy": 0.5}, "given: fraction, energy"),
    "negative": ({"parameters": -5}, "parameters must be above 0, at most"),
    "zero": ({"fraction": 0}, "fraction must be above 0, at most 1, not 0"),
    "above its size": ({"parameters": 10**9}, "parameters must be above 0, at most [0-9,]+, not"),
    "above its multiply-adds": ({"multiply_adds": 10**9}, "multiply_adds must be above 0, at most"),
    "above all": ({"fraction": 1.1}, "fraction must be above 0"),
    "all energy and more": ({"energy": 2}, "energy must be above 0"),
    "text": ({"parameters": "many"}, "not 'many'"),
    "true": ({"parameters": True}, "not True"),
    "NaN": ({"fraction": math.nan}, "not nan"),
    "no evaluate": ({"score": 0.9}, "a score needs `evaluate`"),
    "no function": ({"score": 0.9, "evaluate": 0.9}, "evaluate must be a function"),
    "score of infinity": ({"score": math.inf, "evaluate": len}, "score must be a finite number"),
    "returns NaN": ({"score": 0.9, "evaluate": lambda net: math.nan}, "finite number, not nan"),
    "returns text": ({"score": 0.9, "evaluate": lambda net: "0.95"}, "finite number, not '0.95'"),
    "already below": (
        {"score": 0.9, "evaluate": lambda net: 0.8},
        r"the model itself scores 0\.8, below 0\.9",
    ),
    "multiple": (
        {"fraction": 0.5, "multiple": 0},
        "multiple must be a whole number, at least 1, not 0",
    ),
    "layer": ({"fraction": 0.5, "layers": ["d9"]}, "cannot be compressed"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_goals_are_one_sentence(name):
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        find_ranks(chain(), **arguments)


def test_a_network_with_dynamic_layers_is_to_be_factorized_first():
    dynamic = compress.dynamic(chain(), 2)
    with pytest.raises(ValueError, match="are dynamic: factorize the model first"):
        find_ranks(dynamic, fraction=0.5)
    assert find_ranks(compress.factorize(dynamic, 2), fraction=0.9).met
