import json
import re

import numpy as np
import pytest

from helpers import compress, model, svd
from helpers.lab import page
from helpers.lab.backend import keras
from helpers.ranks import shared_ranks

RANKS = [1, 3, 8]


def small(seed):
    """As the baseline is built, but narrow."""
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(32, "relu", name=f"hidden_{i}") for i in range(1, 4)]
    return keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10, name="output")])


@pytest.fixture(scope="module")
def networks(few):
    untrained, network = small(0), small(0)
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(*few.train, epochs=15, verbose=0)
    return network, untrained


@pytest.fixture(scope="module")
def measured(networks, few):
    return page.measure(*networks, few, RANKS) | {"epochs": 15, "seed": 0}


@pytest.fixture(scope="module")
def written(measured, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    page.write(measured, path)
    return path


def test_a_cut_is_what_compress_makes(measured, networks, few):
    network, _ = networks
    sighted = {"inputs": few.x_train, "loss": page.LOSS}
    by_loss = compress.decompose(network, **sighted)
    assert measured["D"] == [*RANKS, 32]
    for i, D in enumerate(RANKS):
        ranks = {page.PLAIN: [D] * 3, page.BEST: shared_ranks(by_loss, D)}
        cuts = {page.PLAIN: compress.truncate(network, D)}
        cuts[page.BEST] = compress.truncate(network, ranks[page.BEST], **sighted)
        for method, cut in cuts.items():
            found = measured["methods"][method][i]
            W_D = cut.get_layer("hidden_1").get_weights()[0]
            assert found["ranks"] == ranks[method]
            assert found["accuracy"] == pytest.approx(model.accuracy(cut, *few.test), abs=2e-3)
            assert len(found["s"]) == ranks[method][0]
            assert np.allclose(found["s"], svd.decompose(W_D).s[: len(found["s"])], rtol=1e-3)
            by_name = dict(zip(by_loss, ranks[method], strict=True))
            assert found["parameters"] == compress.kept_parameters(network, by_name)


def test_all_singular_values_kept_is_the_uncut_network(measured, networks, few):
    for cuts in measured["methods"].values():
        assert cuts[-1]["accuracy"] == model.accuracy(networks[0], *few.test)
        assert cuts[-1]["parameters"] == networks[0].count_params()
        assert (cuts[-1]["misread"], cuts[-1]["digits"]) == (0, [])
        assert cuts[-1]["W_D"] == measured["W"]
