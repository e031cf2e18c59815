"""Weights of new comparisons."""

import pytest

from rlhf_core.reward.labelled_pairs import pair_weights


def test_new_pairs_weigh_more_and_the_mean_weight_is_one():
    weight_N = pair_weights(5, 2, 3.0)
    assert weight_N.tolist() == pytest.approx([5 / 9] * 3 + [15 / 9] * 2)
    assert float(weight_N.mean()) == pytest.approx(1)


@pytest.mark.parametrize("pairs,new,weight", [(5, 2, 1.0), (5, 0, 3.0), (5, 5, 3.0)])
def test_where_all_pairs_weigh_the_same_the_weight_is_one(pairs, new, weight):
    assert pair_weights(pairs, new, weight) == 1.0
