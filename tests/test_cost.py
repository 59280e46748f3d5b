import pytest

from helpers import compress, cost, model


def test_counts_of_the_baseline_are_those_by_hand():
    network = model.build(seed=0)
    names = compress.hidden_layers(network)
    assert network.count_params() == 5_012_490
    assert cost.kept_parameters(network, dict.fromkeys(names, 20)) == 215_370
    assert cost.kept_parameters(network, dict.fromkeys(names, 1024)) == 5_012_490


@pytest.mark.parametrize("shape", [(784, 1024), (1024, 1024), (7, 5), (3, 1000)])
def test_break_even_is_the_last_rank_that_saves(shape):
    D, dense = cost.break_even_rank(shape), shape[0] * shape[1]
    assert cost.factorized_parameters(shape, D) < dense
    assert cost.factorized_parameters(shape, D + 1) >= dense
    assert cost.svd_parameters(shape, D) == cost.factorized_parameters(shape, D) + D
