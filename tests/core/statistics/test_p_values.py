"""P-values: they agree with the intervals, reject at their level, and are corrected together."""

import numpy as np
import pytest

from rlhf_core.statistics.clusters import wilson_clustered
from rlhf_core.statistics.intervals import Term, bootstrap, wilson
from rlhf_core.statistics.p_values import adjusted, bootstrap_test, of_interval, win_rate_test


def mean_terms(values_N) -> list[Term]:
    return [(1, np.asarray(values_N, dtype=float), np.ones(len(values_N)))]


def test_adjusted_p_values_by_hand():
    """4 p-values in order: 0.01 * 4 / 1, 0.03 * 4 / 2, 0.04 * 4 / 3, 0.5, each at most the next."""
    found = adjusted([0.01, 0.04, 0.03, 0.5])
    assert found == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert adjusted([]) == [] and adjusted([0.2]) == [0.2]


def test_the_p_value_of_an_interval_is_005_where_its_end_is_0():
    assert of_interval(1.0, 0.0, 2.0) == pytest.approx(0.05)
    assert of_interval(-1.0, -3.0, 0.0) == pytest.approx(0.05)
    assert of_interval(1.0, 0.1, 9.0) < 0.05 < of_interval(1.0, -0.1, 1.1)
    assert of_interval(0.0, -1.0, 1.0) == 1.0
    assert of_interval(0.0, 0.0, 0.0) == 1.0 and of_interval(0.5, 0.5, 0.5) == 0.0


@pytest.mark.parametrize("n", [20, 21, 100])
def test_a_win_rate_has_p_below_005_exactly_when_wilsons_interval_leaves_out_one_half(n):
    for wins in range(n + 1):
        outcomes = np.array([1.0] * wins + [0.0] * (n - wins))
        low, high = wilson(wins, n)
        assert (win_rate_test(outcomes, None) < 0.05) == (not low <= 0.5 <= high), wins


def test_a_win_rate_of_shared_prompts_agrees_with_its_interval_too():
    generator, clusters = np.random.default_rng(1), np.arange(120) // 4
    for _ in range(200):
        effects = generator.normal(0.3, 1.0, size=30)[clusters]
        outcomes = (effects + generator.normal(size=120) > 0).astype(float)
        low, high = wilson_clustered(outcomes, np.ones(120), clusters)
        assert (win_rate_test(outcomes, clusters) < 0.05) == (not low <= 0.5 <= high)
    assert win_rate_test(np.ones(120), np.zeros(120, dtype=int)) == 1.0  # one prompt says nothing


@pytest.mark.parametrize("clusters", [None, np.arange(60) // 3, np.arange(60)[::-1].copy()])
def test_the_bootstrap_test_has_the_interval_of_before_and_agrees_with_it(clusters):
    generator = np.random.default_rng(2)
    for shift in (0.0, 0.2, 0.28, 0.5):
        terms = mean_terms(generator.normal(shift, 1.0, size=60))
        low, high, p = bootstrap_test(terms, clusters)
        if clusters is None:
            assert (low, high) == bootstrap(terms)
        assert (p < 0.05) == (low > 0 or high < 0), (shift, p, low, high)


def test_the_smallest_p_value_of_a_bootstrap_is_that_of_its_resamples():
    assert bootstrap_test(mean_terms([1.0, 2.0] * 30), None)[2] == pytest.approx(2 / 10_001)
    for size in (40, 60):
        nothing: list[Term] = [(1, np.zeros(size), np.zeros(size))]
        assert bootstrap_test(nothing, None)[2] == 1.0


def test_a_bootstrap_test_of_no_difference_rejects_at_its_level():
    """Few prompts, by the t interval: 2,000 trials; four standard errors."""
    generator, clusters = np.random.default_rng(3), np.arange(80) // 2
    rejected = 0
    for _ in range(2000):
        values = generator.normal(size=40)[clusters] + generator.normal(size=80)
        rejected += bootstrap_test(mean_terms(values), clusters)[2] < 0.05
    assert rejected / 2000 == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 2000) ** 0.5)
