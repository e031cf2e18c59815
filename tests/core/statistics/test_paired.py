"""Paired comparisons against published and hand-computed values."""

import math

import numpy as np
import pytest
import torch

from rlhf_core.statistics.paired import bootstrap_mean, resampled_means, win_rate

BOOTSTRAP_95 = (44.06975, 55.2005)  # of 0..99 with seed 1, as first released


def test_a_tie_counts_one_half_in_the_win_rate():
    assert (
        win_rate(torch.tensor([1.0, 0.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 3.0, -1.0]))[0]
        == 0.625
    )


def test_bootstrap_interval_covers_the_mean_and_repeats_with_its_seed():
    values = torch.arange(100.0)
    low, high = bootstrap_mean(values, seed=1)
    assert 40 < low < 49.5 < high < 59
    assert bootstrap_mean(values, seed=1) == (low, high)


def test_bootstrap_numbers_of_the_default_confidence_have_not_changed():
    values = torch.arange(100.0)
    assert (
        bootstrap_mean(values, seed=1)
        == bootstrap_mean(values, seed=1, confidence=0.95)
        == BOOTSTRAP_95
    )
    low, high = bootstrap_mean(values, seed=1, confidence=0.8)
    assert BOOTSTRAP_95[0] < low < high < BOOTSTRAP_95[1]


def test_win_rate_interval_takes_a_confidence():
    ours, theirs = torch.tensor([1.0] * 8 + [0.0] * 2), torch.tensor([0.5] * 10)
    assert win_rate(ours, theirs)[1] == pytest.approx((0.4902, 0.9433), abs=5e-5)
    assert win_rate(ours, theirs, 0.9)[1] == pytest.approx((0.5408, 0.9314), abs=5e-5)


def test_mean_differences_are_covered_as_often_as_stated():
    """60 items of a skewed difference; percentiles of so few are a little narrow."""
    generator, trials, covered = torch.Generator().manual_seed(2), 300, 0
    for trial in range(trials):
        values = torch.randn(60, generator=generator).exp()
        low, high = bootstrap_mean(values, seed=trial)
        covered += low <= math.exp(0.5) <= high
    assert covered / trials >= 0.92 - 3 * math.sqrt(0.92 * 0.08 / trials)


@pytest.mark.parametrize("items", [2, 5, 9, 10, 25])
def test_mean_differences_of_few_items_are_covered_as_often_as_stated(items):
    """Bug: percentiles "of 95%" of ten independent items cover about 90%, of three 76%."""
    generator, trials, covered = torch.Generator().manual_seed(5), 2000, 0
    for trial in range(trials):
        values = torch.randn(items, generator=generator)
        low, high = bootstrap_mean(values, seed=trial)
        covered += low <= 0 <= high
    assert abs(covered / trials - 0.95) <= 4 * math.sqrt(0.95 * 0.05 / trials)


def test_one_item_shows_no_spread():
    assert bootstrap_mean(torch.tensor([2.0]), seed=1) == (2.0, 2.0)


def test_resampled_means_of_clusters_take_whole_clusters():
    """Items of one cluster are equal: the means are those of the clusters, by their sizes."""
    clusters = np.repeat(np.arange(60), 4)
    each = torch.randn(60, generator=torch.Generator().manual_seed(0)).double()
    values = each.repeat_interleave(4)
    found = resampled_means(values, seed=1, clusters=clusters)
    assert torch.allclose(found, resampled_means(each, seed=1))
    wide, narrow = bootstrap_mean(values, seed=1, clusters=clusters), bootstrap_mean(values, seed=1)
    assert wide[1] - wide[0] > 1.7 * (narrow[1] - narrow[0])
