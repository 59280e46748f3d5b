"""A goal in the place of ranks: sizes, energy, multiply-adds, a score."""

import itertools
import math

import numpy as np
import pytest

from helpers import compress, svd
from helpers.backend import keras
from helpers.compress import goal, watch
from helpers.compress.share import share, whole_price
from helpers.lab import cost

from .zoo import LOSS, MODELS, columns, inputs, matches

L = keras.layers
X = np.random.default_rng(0).normal(size=(200, 28)).astype("float32")
EDGES = {"d30": 14, "d24": 13, "d20": 10}  # break-even ranks
WHAT, SLOW = [{}, {"neurons": False}, {"ranks": False}], pytest.mark.slow
SIZES = {"lenet": (0.9, WHAT), "text": (0.9, WHAT[:1]), "transformer": (0.6, WHAT[:2])}


def chain(*widths):
    """28 → widths → 4."""
    keras.utils.set_random_seed(0)
    hidden = [L.Dense(n, "tanh", name=f"d{n}") for n in widths]
    return keras.Sequential([keras.Input((28,)), *hidden, L.Dense(4, name="out")])


@pytest.fixture(scope="module")
def seen():
    """Of 28 → 30 → 24 → 20 → 4."""
    return compress.observe(chain(30, 24, 20), X)


@pytest.fixture(scope="module")
def short():
    """Of 28 → 30 → 4, whose search is quick."""
    return compress.observe(chain(30), X)


def cut(seen, **goal):
    """Found, ranks alone."""
    return seen.cut(**goal, neurons=False)


def closeness(model, x):
    """A score that falls with the distance to the model's outputs; the model's own is 1."""
    return lambda network: 1 - float(np.mean((network(x) - model(x)) ** 2) / np.var(model(x)))


@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_kept_to_and_used(name):
    model, (most, modes) = MODELS[name](), SIZES[name]
    seen, adds = compress.observe(model, inputs(model), LOSS), watch.multiply_adds(model)
    counts = {"parameters": keras.Model.count_params, "multiply_adds": cost.multiply_adds}
    for what, (counted, count) in itertools.product(modes, counts.items()):
        whole, parts = count(model), seen.parts(**what, adds=adds if "adds" in counted else None)
        found = seen.cut(**{counted: int(most * whole)}, **what)
        assert found.met
        assert 0.75 * most * whole < count(found.network) <= most * whole
        rest = whole - whole_price(parts)
        promised = share(parts, int(most * whole) - rest)
        assert found[:2] == promised[:2]
        assert (count(found.network), found.rise) == (promised.price + rest, promised.rise)
        assert (found.widths == {}) == (what == WHAT[1])
        assert found.ranks == {} or what != WHAT[2]


def test_ranks_below_break_even_share_a_budget(seen):
    shared = compress.shared_ranks(seen.svds, 5)
    found = cut(seen, parameters=compress.kept_parameters(seen.model, shared))
    assert found.ranks == shared
    matches(found.network(X), seen.layer_by_layer(shared)(X))
    share = found.network.count_params() / seen.model.count_params()
    assert cut(seen, fraction=share).ranks == shared


def test_the_largest_rank_and_the_smallest_size_are_reached(short):
    sizes = {D: compress.kept_parameters(short.model, {"d30": D}) for D in (1, EDGES["d30"])}
    for D, size in sizes.items():
        found = cut(short, parameters=size)
        assert (found.ranks, found.network.count_params(), found.met) == ({"d30": D}, size, True)
    assert cut(short, parameters=size - 1).ranks == {"d30": EDGES["d30"] - 1}
    found = cut(short, parameters=sizes[1] - 1)
    assert (found.ranks, found.met) == ({"d30": 1}, False)
    whole = cut(short, fraction=1)  # beyond break-even a layer stays as it is
    assert (whole.ranks, whole.met) == ({}, True)
    assert whole.network.count_params() == short.model.count_params()


@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_each_layer_keeps_its_energy_and_no_more(seen, share):
    ranks, widths = cut(seen, energy=share).ranks, seen.cut(energy=share, ranks=False).widths
    for name, factors in seen.svds.items():
        kept = np.cumsum(seen.neurons[name].gains)
        assert kept[widths[name] - 1] >= share * kept[-1] > kept[widths[name] - 2]
        if name in ranks:
            assert svd.energy(factors.s, ranks[name]) >= share
            assert svd.energy(factors.s, ranks[name] - 1) < share
        else:
            assert svd.energy(factors.s, EDGES[name]) < share


def test_all_the_energy_takes_the_rank_of_the_matrix():
    model = keras.Sequential([keras.Input((20,)), L.Dense(20, name="fc"), L.Dense(3)])
    rng, kernel = np.random.default_rng(0), model.get_layer("fc").kernel
    kernel.assign(rng.normal(size=(20, 2)) @ rng.normal(size=(2, 20)))
    seen = compress.observe(model, X[:, :20])
    for multiple, D in ((1, 2), (4, 4), (9, 9)):  # break-even is 9
        assert cut(seen, energy=1, multiple=multiple).ranks == {"fc": D}
    kernel.assign(0 * kernel)
    with np.errstate(divide="raise", invalid="raise"):
        assert cut(compress.observe(model, X[:, :20]), energy=1).ranks == {"fc": 1}


def test_widths_and_ranks_are_multiples(seen):
    goals = {"fraction": 0.7}, {"energy": 0.5}, {"multiply_adds": 1400}
    for arguments, what in itertools.product(goals, WHAT):
        widths, ranks, *_ = seen.cut(**arguments, **what, multiple=4)
        chosen = [k for name, k in widths.items() if k < int(name[1:])] + [*ranks.values()]
        assert chosen
        assert all(k % 4 == 0 for k in chosen)


def test_a_rank_that_saves_no_multiply_adds_is_not_taken():
    model = columns()
    whole, seen = cost.multiply_adds(model), compress.observe(model, inputs(model))
    with np.errstate(divide="raise", invalid="raise"):
        assert cut(seen, multiply_adds=whole).ranks == {}
        assert cut(seen, multiply_adds=whole - 1).ranks == {"conv": 1}
    words = MODELS["text"]()  # a lookup takes none
    seen = compress.observe(words, inputs(words))
    assert "words" not in cut(seen, multiply_adds=cost.multiply_adds(words) // 2).ranks
    assert "words" in cut(seen, fraction=0.5).ranks


def test_a_size_out_of_reach_gives_the_nearest_and_says_so(seen):
    found = cut(seen, parameters=50, evaluate=closeness(seen.model, X))
    assert not found.met
    assert found.ranks == {"d30": 1, "d24": 1, "d20": 1}
    assert str(found).startswith("the goal cannot be met; the nearest to it: 314 parameters, score")
    assert found.curve == [goal.Point(found.network.count_params(), found.score)]


@pytest.mark.parametrize("what", [WHAT[0], *(pytest.param(w, marks=SLOW) for w in WHAT[1:])])
def test_a_score_is_reached_by_a_network_that_was_measured(seen, what):
    model, measured = seen.model, []
    evaluate = closeness(model, X)

    def counting(network):
        measured.append(goal.Point(network.count_params(), evaluate(network)))
        return measured[-1].score

    found = seen.cut(score=0.8, evaluate=counting, **what)
    assert found.met
    assert found.score == evaluate(found.network) >= 0.8
    assert found.curve == sorted(measured)
    assert measured[0].parameters == model.count_params()
    assert len(measured) <= goal.EVALUATIONS
    enough = [point.parameters for point in measured if point.score >= 0.8]
    assert found.network.count_params() == min(enough) < model.count_params()
    # And one step smaller was measured, too, and is not good enough.
    missed = [point.parameters for point in measured if point.score < 0.8]
    assert max(missed) >= 0.9 * found.network.count_params()
    # Tuned, each network scores 0.15 more, but not the model: a smaller one is enough.
    tuned = []
    tuning = {"tune": lambda net: tuned.append(net) or net}
    tuning["evaluate"] = lambda net: evaluate(net) + 0.15 * (net in tuned)
    less = seen.cut(score=0.8, **tuning, **what)
    assert less.network in tuned
    assert less.network.count_params() < found.network.count_params()
    assert (len(tuned), less.curve[-1]) == (len(less.curve) - 1, found.curve[-1])
    plain = dict(found.curve)
    assert all(score == plain.get(size, score - 0.15) + 0.15 for size, score in less.curve[:-1])


def of_size(share, model, sizes):
    """A score of 1 for networks above this share of the model's size, which it notes."""

    def evaluate(network):
        sizes.append(network.count_params() / model.count_params())
        return int(sizes[-1] > share)

    return evaluate


def test_the_search_ends_close_to_a_network_that_missed():
    model, sizes = keras.Sequential([keras.Input((600,)), L.Dense(600), L.Dense(2)]), []
    seen = compress.observe(model, np.random.default_rng(0).normal(size=(600, 600)))
    seen.network = lambda _, ranks: compress.factorize(model, ranks, seen.svds)  # is quicker
    cut(seen, score=1, evaluate=of_size(0.6, model, sizes))
    for tried, close in ((sizes[:-1], False), (sizes, True)):
        missed = max(size for size in tried if size <= 0.6)
        assert (min(size for size in tried if size > 0.6) <= goal.CLOSE * missed) == close


@pytest.mark.parametrize("what", WHAT)
def test_a_score_that_anything_reaches_ends_at_one_of_each(seen, what):
    mostly_outputs = keras.Sequential([keras.Input((28,)), L.Dense(99), L.Dense(999)])
    for observed in (seen, compress.observe(mostly_outputs, X)):
        found = observed.cut(score=0, evaluate=lambda network: 0.0, **what)
        assert {*found.widths.values(), *found.ranks.values()} == {1}


def test_a_score_that_only_the_model_reaches_leaves_it_alone(short, monkeypatch):
    sizes = []
    found = cut(short, score=1, evaluate=of_size(0.999, short.model, sizes))
    assert (found.ranks, found.met, found.network is short.model) == ({}, True, True)
    assert len(found.curve) == len(sizes) <= goal.EVALUATIONS
    assert sizes[0] == 1
    assert sizes[1] <= 1 / 4 < sizes[2] <= 1 / 2 < sizes[3]  # small ones first
    monkeypatch.setattr(goal, "EVALUATIONS", 4)
    assert len(cut(short, score=1, evaluate=of_size(0.7, short.model, [])).curve) == 4


BAD = {
    "none": ({}, "give one goal of parameters, fraction, multiply_adds, energy, score; .*: none"),
    "two": ({"fraction": 0.5, "energy": 0.5}, "given: fraction, energy"),
    "negative": ({"fraction": -1}, "fraction must be above 0, at most 1, not -1"),
    "above its size": ({"parameters": 10**9}, "parameters must be above 0, at most [0-9,]+, not"),
    "all energy and more": ({"energy": 2}, "energy must be above 0"),
    "text": ({"parameters": "many"}, "not 'many'"),
    "NaN": ({"fraction": math.nan}, "not nan"),
    "no evaluate": ({"score": 0.9}, "a score needs `evaluate`"),
    "no function": ({"score": 0.9, "evaluate": 0.9}, "evaluate must be a function"),
    "score of infinity": ({"score": math.inf, "evaluate": len}, "score must be a finite number"),
    "returns text": ({"score": 0.9, "evaluate": lambda net: "0.95"}, "finite number, not '0.95'"),
    "already below": ({"score": 9, "evaluate": lambda net: 8}, "model itself scores 8, below 9"),
    "multiple": ({"fraction": 0.5, "multiple": 0}, "must be a whole number, at least 1, not 0"),
    "tuned to None": ({"fraction": 0.5, "tune": lambda net: None}, "tune must return a network"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_goals_are_one_sentence(short, name):
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        cut(short, **arguments)


def test_dynamic_layers_are_to_be_factorized_first():
    dynamic = compress.dynamic(chain(30), 2)
    with pytest.raises(ValueError, match="are dynamic: factorize the model first"):
        compress.observe(dynamic, X).cut(fraction=0.5)
    assert cut(compress.observe(compress.factorize(dynamic, 2), X), fraction=0.9).met
