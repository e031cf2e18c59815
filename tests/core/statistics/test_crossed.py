"""Intervals over seeds, and over seeds and items: by hand, and their coverage by simulation."""

import math

import numpy as np
import pytest

from rlhf_core.statistics.crossed import crossed, pseudo_values
from rlhf_core.statistics.intervals import statistic

TRIALS = 2000
ERROR = 4 * math.sqrt(0.05 * 0.95 / TRIALS)  # four standard errors of a coverage of 95%


def table(generator, seeds: int, items: int, sds: tuple[float, float, float]) -> np.ndarray:
    """Return values by seed and item: 1 + part of the seed + part of the item + rest."""
    of_seed, of_item, rest = sds
    return (
        1.0
        + of_seed * generator.normal(size=(seeds, 1))
        + of_item * generator.normal(size=(1, items))
        + rest * generator.normal(size=(seeds, items))
    )


def test_an_interval_over_seeds_alone_is_the_t_interval():
    """1, 2, 3: mean 2, standard error 1 / sqrt(3), t of 2 degrees of freedom 4.3027."""
    found = crossed([(1, np.array([[1.0], [2.0], [3.0]]))])
    half = 4.302653 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - half, 2 + half))
    assert found.p_value == pytest.approx(0.0742, abs=1e-4)  # t = 2 sqrt(3) = 3.4641


def test_two_blocks_of_seeds_are_welchs_interval():
    """Means 2 and 5, variances 1 and 4 over 3 and 4 seeds: 4.57 degrees."""
    first = np.array([[1.0], [2.0], [3.0]])
    second = 5 + math.sqrt(4 / 5) * np.array([[-2.0], [-1.0], [1.0], [2.0]]) * math.sqrt(1.5)
    assert second.var(ddof=1) == pytest.approx(4.0)
    found = crossed([(1, first), (-1, second)])
    assert found.value == pytest.approx(-3.0)
    degrees = (1 / 3 + 1) ** 2 / ((1 / 3) ** 2 / 2 + 1 / 3)
    assert degrees == pytest.approx(4.571, abs=1e-3)
    from scipy.stats import t

    assert found.high - found.value == pytest.approx(t.ppf(0.975, degrees) * math.sqrt(4 / 3))


def test_without_any_variance_the_interval_is_the_value():
    same = crossed([(1, np.full((3, 5), 0.25))])
    assert (same.low, same.value, same.high, same.p_value) == (0.25, 0.25, 0.25, 0.0)
    assert crossed([(1, np.zeros((3, 5)))]).p_value == 1.0


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("sds", [(0.3, 1.0, 1.0), (0.02, 1.0, 1.0), (0.3, 0.3, 1.0)])
def test_an_interval_over_seeds_and_items_covers_what_it_states(seeds, sds):
    generator = np.random.default_rng(seeds)
    covered = 0
    for _ in range(TRIALS):
        found = crossed([(1, table(generator, seeds, 100, sds))])
        covered += found.low <= 1.0 <= found.high
    assert covered / TRIALS >= 0.95 - ERROR


def test_items_alone_or_seeds_alone_cover_too_little_where_both_vary():
    """Count how often the interval of one run, or of seeds without the items, covers."""
    generator, seeds_alone, items_alone = np.random.default_rng(7), 0, 0
    for _ in range(TRIALS):
        values = table(generator, 4, 100, (0.2, 1.5, 1.0))
        seeds = crossed([(1, values.mean(1, keepdims=True))])
        seeds_alone += seeds.low <= 1.0 <= seeds.high
        one = values[0]
        items_alone += abs(one.mean() - 1.0) <= 1.96 * one.std(ddof=1) / 10
    assert seeds_alone / TRIALS < 0.9 and items_alone / TRIALS < 0.9


def test_the_difference_of_two_groups_of_seeds_covers_what_it_states():
    """Unpaired seeds on the same items: the part of an item that both share cancels."""
    generator, covered = np.random.default_rng(8), 0
    for _ in range(TRIALS):
        items = 2.0 * generator.normal(size=(1, 80))
        first = items + table(generator, 3, 80, (0.2, 0.3, 1.0))
        second = items + table(generator, 4, 80, (0.1, 0.3, 1.0))
        found = crossed([(1, second), (-1, first)])
        covered += found.low <= 0.0 <= found.high
    assert covered / TRIALS >= 0.95 - ERROR


def test_pseudo_values_have_the_statistic_as_their_mean():
    generator = np.random.default_rng(9)
    top, bottom = generator.normal(1, 1, size=60), generator.uniform(1, 2, size=60)
    terms = [(1, top, bottom), (-1, bottom, np.ones(60))]
    for clusters in (None, np.arange(60) // 4):
        values = pseudo_values(terms, clusters)
        assert len(values) == (60 if clusters is None else 15)
        assert values.mean() == pytest.approx(statistic(terms))
    own = generator.normal(size=20)
    assert pseudo_values([(1, own, np.ones(20))], None) == pytest.approx(own)
