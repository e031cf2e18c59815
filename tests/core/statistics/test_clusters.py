"""Items that share a prompt: coverage by simulation, hand-computed effects, unchanged numbers.

A coverage of `trials` simulated intervals has a binomial error; bounds are 3 standard errors wide.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_core.statistics.clusters import (
    MIN_CLUSTERS,
    bootstrap_clustered,
    by_cluster,
    clopper_pearson_clustered,
    clusters_of,
    count_clusters,
    describe_clusters,
    effective_size,
    net_share,
    sign_test_clustered,
    wilson_clustered,
)
from rlhf_core.statistics.intervals import bootstrap, clopper_pearson, sign_test, statistic, wilson

TRIALS = 2000
PER_PROMPT = 6
ERROR = 3 * math.sqrt(0.95 * 0.05 / TRIALS)


def simulated_pairs(generator, prompts: int, share: float = 0.7, correlation: float = 0.2):
    """Return wins and prompts of six pairs per prompt, whose shares are beta-distributed."""
    strength = 1 / correlation - 1
    share_K = generator.beta(share * strength, (1 - share) * strength, prompts)
    won_N = generator.random((prompts, PER_PROMPT)) < share_K[:, None]
    return won_N.ravel().astype(float), np.repeat(np.arange(prompts), PER_PROMPT)


def coverage(prompts: int, interval, share: float = 0.7) -> float:
    generator, covered = np.random.default_rng(prompts), 0
    for _ in range(TRIALS):
        wins_N, clusters = simulated_pairs(generator, prompts, share)
        low, high = interval(wins_N, clusters)
        covered += low <= share <= high
    return covered / TRIALS


def test_wilsons_interval_of_pairs_that_share_prompts_covers_too_little():
    found = coverage(100, lambda wins_N, _: wilson(float(wins_N.sum()), len(wins_N)))
    assert found < 0.88


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("prompts", [10, 30, 100])
def test_the_clustered_wilson_interval_covers_what_it_states(prompts, share):
    found = coverage(
        prompts, lambda w_N, clusters: wilson_clustered(w_N, np.ones_like(w_N), clusters), share
    )
    assert 0.95 - ERROR - 0.01 <= found <= 0.985


def test_the_clustered_exact_interval_covers_at_least_what_it_states():
    found = coverage(
        40, lambda w_N, clusters: clopper_pearson_clustered(w_N, np.ones_like(w_N), clusters)
    )
    assert found >= 0.95 - ERROR


def mean_terms(values_N):
    return [(1, values_N, np.ones(len(values_N)))]


@pytest.mark.parametrize("prompts", [5, MIN_CLUSTERS - 1])
def test_the_interval_of_few_prompts_covers_what_it_states(prompts):
    found = coverage(
        prompts, lambda w_N, clusters: bootstrap_clustered(mean_terms(w_N), clusters), 0.5
    )
    assert abs(found - 0.95) <= ERROR + 0.01


def test_the_cluster_bootstrap_covers_what_it_states():
    """60 prompts of six items, half of whose variance is the prompt's."""
    generator, covered, plain, trials = np.random.default_rng(3), 0, 0, 400
    for _ in range(trials):
        effect_K = generator.normal(0, 1, 60)
        values_N = (effect_K[:, None] + generator.normal(0, 1, (60, PER_PROMPT))).ravel()
        clusters = np.repeat(np.arange(60), PER_PROMPT)
        low, high = bootstrap_clustered(mean_terms(values_N), clusters)
        covered += low <= 0 <= high
        half = 1.96 * values_N.std() / math.sqrt(len(values_N))
        plain += abs(values_N.mean()) <= half
    assert covered / trials >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / trials)
    assert plain / trials < 0.8


def test_the_sign_test_of_shared_prompts_rejects_at_its_level():
    generator, rejected, plain = np.random.default_rng(4), 0, 0
    for _ in range(TRIALS):
        wins_N, clusters = simulated_pairs(generator, 50, 0.5, 0.3)
        rejected += sign_test_clustered(2 * wins_N - 1, clusters) < 0.05
        plain += sign_test(int(wins_N.sum()), int((1 - wins_N).sum())) < 0.05
    assert rejected / TRIALS <= 0.05 + ERROR
    assert plain / TRIALS > 0.15


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=50, max_size=80))
def test_one_item_per_prompt_changes_no_bit(values):
    wins_N, ones_N = np.array(values), np.ones(len(values))
    clusters = clusters_of([f"prompt {i}" for i in range(len(values))])
    assert clusters is None
    assert wilson_clustered(wins_N, ones_N, clusters) == wilson(sum(values), len(values))
    assert bootstrap_clustered(mean_terms(wins_N), clusters) == bootstrap(mean_terms(wins_N))
    won, lost = values.count(1.0), values.count(0.0)
    assert sign_test_clustered(wins_N - 0.5, clusters) == sign_test(won, lost)
    decided_N = (wins_N != 0.5).astype(float)
    found = clopper_pearson_clustered((wins_N == 1).astype(float), decided_N, clusters)
    assert found == clopper_pearson(won, won + lost)


def test_items_left_out_do_not_make_the_others_share_a_prompt():
    wins_N, counted_N = np.array([1.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0])
    clusters = clusters_of(["a", "a", "b"])
    assert wilson_clustered(wins_N, counted_N, clusters) == wilson(2.0, 2)
    assert count_clusters(clusters, counted_N) == 2 and not describe_clusters(clusters, counted_N)


def test_the_effective_size_by_hand():
    """Clusters of 2 with 2, 1, 0 wins: share 1/2, squares 2, variance 3/2 * 2 / 36 = 1/12.

    That of six independent items is 1/24: the design effect is 2, the size 3, before Student's t.
    """
    found = effective_size(np.array([2.0, 1.0, 0.0]), np.array([2.0, 2.0, 2.0]))
    assert found == pytest.approx(3 * (1.959964 / 4.302653) ** 2, rel=1e-5)


def test_a_share_of_all_counts_each_prompt_once_and_one_prompt_says_nothing():
    found = effective_size(np.full(4, 3.0), np.full(4, 3.0))
    assert found == pytest.approx(4 * (1.959964 / 3.182446) ** 2, rel=1e-5)
    ones_N = np.ones(6)
    assert wilson_clustered(ones_N, ones_N, np.zeros(6, int)) == (0.0, 1.0)
    assert sign_test_clustered(ones_N, np.zeros(6, int)) == 1.0
    with pytest.raises(ValueError, match="all items share one prompt"):
        bootstrap_clustered(mean_terms(ones_N), np.zeros(6, int))


def test_terms_by_cluster_have_the_same_statistic():
    terms = [
        (1, np.array([1.0, 2.0, 3.0]), np.ones(3)),
        (-1, np.array([0.0, 1.0, 1.0]), np.array([1.0, 2.0, 1.0])),
    ]
    clusters = clusters_of(["x", "y", "x"])
    grouped = by_cluster(terms, clusters)
    assert [len(top) for _, top, _ in grouped] == [2, 2]
    assert statistic(grouped) == pytest.approx(statistic(terms))


def test_a_net_share_by_hand():
    """Of ten items three are plus and one minus; the two counts are negatively correlated."""
    plus_N, minus_N = np.repeat([1.0, 0.0], [3, 7]), np.repeat([0.0, 1.0], [9, 1])
    net, low, high = net_share(plus_N, minus_N, None)
    (a, b), (c, d) = wilson(3, 10), wilson(1, 10)
    correlation = -math.sqrt(0.3 * 0.1 / (0.7 * 0.9))
    below = (0.3 - a) ** 2 - 2 * correlation * (0.3 - a) * (d - 0.1) + (d - 0.1) ** 2
    above = (b - 0.3) ** 2 - 2 * correlation * (b - 0.3) * (0.1 - c) + (0.1 - c) ** 2
    assert (net, low, high) == pytest.approx((0.2, 0.2 - below**0.5, 0.2 + above**0.5))


def test_a_net_share_of_nothing_has_a_width_and_one_of_everything_stays_within_one():
    zeros_N, ones_N = np.zeros(40), np.ones(40)
    net, low, high = net_share(zeros_N, zeros_N, None)
    assert net == 0 and low < 0 < high and high == -low
    net, low, high = net_share(ones_N, zeros_N, None)
    assert net == 1 and 0.8 < low < 1 and high == 1


@pytest.mark.parametrize(("plus", "minus"), [(0.1, 0.02), (0.3, 0.3), (0.02, 0.02), (0.6, 0.1)])
@pytest.mark.parametrize("per_prompt", [1, 4])
def test_the_interval_of_a_net_share_covers_as_stated(plus, minus, per_prompt):
    """Each prompt has one of three kinds, which its items share."""
    generator, covered = np.random.default_rng(5), 0
    clusters = None if per_prompt == 1 else np.repeat(np.arange(100), per_prompt)
    for _ in range(1000):
        kind_N = np.repeat(
            generator.choice([1, -1, 0], 100, p=[plus, minus, 1 - plus - minus]), per_prompt
        )
        _, low, high = net_share((kind_N == 1) * 1.0, (kind_N == -1) * 1.0, clusters)
        covered += low - 1e-9 <= plus - minus <= high + 1e-9
    assert covered / 1000 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1000)
