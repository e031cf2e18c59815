"""Significance of differences, on hand-made items and against published tables."""

import random

import numpy as np
import pytest

from rlhf_core.statistics.clusters import clusters_of
from rlhf_core.statistics.intervals import wilson
from tasks.analysis import significance
from tasks.analysis.run_evidence import Estimate
from tasks.analysis.significance import LEVEL, Finding


def test_a_clear_difference_is_significant_and_its_interval_holds_it():
    rng = random.Random(0)
    first = [rng.gauss(0, 1) for _ in range(200)]
    second = [value + 0.5 + rng.gauss(0, 0.2) for value in first]
    finding = significance.paired(significance.terms(first), significance.terms(second))
    assert finding.verdict == "significant" and finding.n == 200
    assert 0.45 < finding.low < finding.difference < finding.high < 0.55
    swapped = significance.paired(significance.terms(second), significance.terms(first))
    assert (swapped.difference, swapped.low, swapped.high) == pytest.approx(
        (-finding.difference, -finding.high, -finding.low)
    )


def test_pairing_sees_what_two_separate_intervals_cannot():
    rng = random.Random(1)
    first = [rng.gauss(0, 5) for _ in range(100)]
    second = [value + 0.3 + rng.gauss(0, 0.1) for value in first]
    assert (
        significance.paired(significance.terms(first), significance.terms(second)).verdict
        == "significant"
    )
    assert (
        significance.unpaired(significance.mean(first), significance.mean(second)).verdict
        == "not significant"
    )


def test_no_difference_is_not_called_one():
    rng = random.Random(2)
    first = [rng.gauss(0, 1) for _ in range(300)]
    second = [value + rng.gauss(0, 1) for value in first]
    assert (
        significance.paired(significance.terms(first), significance.terms(second)).verdict
        == "not significant"
    )
    same = significance.paired(significance.terms(first), significance.terms(first))
    assert same.verdict == "identical" and same.difference == same.low == same.high == 0.0


def test_few_items_get_no_verdict_however_large_the_difference():
    finding = significance.paired(significance.terms([0.0] * 19), significance.terms([1.0] * 19))
    assert finding.verdict == "too few items" and finding.low is None and finding.difference == 1.0
    assert significance.win_rate([1.0] * 19, [0.0] * 19).verdict == "too few items"
    assert significance.paired(significance.terms([]), significance.terms([])).verdict == "missing"


def test_a_share_needs_the_exact_test_too():
    """10 of 15 that changed sides: p = 0.30; 14 of 15: p = 0.00098 (2 * (1 + 15) / 2^15)."""
    agree = [1.0] * 85
    first = significance.terms([*agree, *[0.0] * 10, *[1.0] * 5])
    weak = significance.paired(
        first, significance.terms([*agree, *[1.0] * 10, *[0.0] * 5]), share=True
    )
    assert weak.verdict == "not significant" and "McNemar p = 0.3" in weak.method
    strong = significance.paired(first, significance.terms([*agree, *[1.0] * 15]), share=True)
    assert strong.difference == pytest.approx(0.10) and strong.verdict == "significant"
    once = significance.paired(
        significance.terms([*agree, *[0.0] * 14, 1.0]),
        significance.terms([*agree, *[1.0] * 14, 0.0]),
        share=True,
    )
    assert "p = 0.00098" in once.method


def test_unpaired_shares_have_newcombes_interval():
    """Newcombe 1998, table II, method 10: 56/70 - 48/80 is 0.2 [0.0524, 0.3339]."""
    first, second = (Estimate(k / n, *wilson(k, n), n) for k, n in ((48, 80), (56, 70)))
    finding = significance.unpaired(first, second)
    assert (finding.low, finding.high) == pytest.approx(
        (0.0524, 0.3339), abs=1e-4
    ) and finding.verdict == "significant"
    assert significance.unpaired(Estimate(1.0), second).verdict == "no interval"


def test_a_win_rate_is_held_against_a_half_and_ties_count_half():
    assert significance.win_rate([1.0] * 30, [1.0] * 30).difference == 0.5
    lost = significance.win_rate([0.0] * 40, [1.0] * 40)
    assert lost.verdict == "significant" and lost.better is False and lost.high < 0.1


def test_items_that_share_prompts_count_as_their_prompts():
    """240 items of 40 prompts, six alike: the intervals are those of 40 items and wider."""
    rng = random.Random(5)
    effects = [0.35 + rng.gauss(0, 1) for _ in range(40)]
    second = [effect + rng.gauss(0, 0.1) for effect in effects for _ in range(6)]
    clusters = clusters_of([place // 6 for place in range(240)])
    first, zeros = significance.terms([0.0] * 240), [0.0] * 240
    alone = significance.paired(first, significance.terms(second))
    shared = significance.paired(first, significance.terms(second), clusters=clusters)
    assert alone.verdict == "significant" and alone.sample == "n = 240"
    assert shared.n_prompts == 40 and shared.sample == "n = 240 of 40 prompts"
    assert shared.high - shared.low > 2 * (alone.high - alone.low)
    rate = significance.win_rate(second, zeros, clusters)
    wide = significance.win_rate(second, zeros)
    assert rate.n_prompts == 40 and rate.low < wide.low and rate.difference == wide.difference
    few = significance.win_rate(second[:60], zeros[:60], clusters[:60])
    assert few.verdict == "too few items" and "60 items of 10 prompts" in few.note


def findings_of(effects, generator, metrics: int = 30) -> list[significance.Finding]:
    """Compare two runs in many metrics that depend on each other, some of them oppositely.

    A metric is a mixture of five parts that all metrics share and one of its own, with either sign.
    80 items of 40 prompts; effects: true difference of each metric.
    """
    prompts = np.arange(80) // 2
    shared = generator.normal(size=(5, 80)) + generator.normal(size=(5, 40))[:, prompts]
    found = []
    for metric in range(metrics):
        weights = generator.normal(size=5)
        own = generator.normal(size=80) + generator.normal(size=40)[prompts]
        change = weights @ shared + own + effects[metric]
        zeros = significance.terms([0.0] * 80)
        found.append(significance.paired(zeros, significance.terms(change), clusters=prompts))
    return found


def test_equal_runs_with_many_metrics_differ_falsely_at_most_at_the_stated_rate():
    """400 comparisons of equal runs in 30 metrics: any significant difference is a false one."""
    generator, trials, alone, together = np.random.default_rng(11), 400, 0, 0
    for _ in range(trials):
        found = findings_of(np.zeros(30), generator)
        alone += any(one.verdict == "significant" for one in found)
        together += any(one.verdict == "significant" for one in significance.corrected(found))
    assert alone / trials > 0.3
    assert together / trials <= LEVEL + 4 * (LEVEL * (1 - LEVEL) / trials) ** 0.5


def test_of_the_differences_called_significant_at_most_the_stated_share_is_false():
    """10 metrics of 30 differ truly; the mean share of false ones, and most true ones are found."""
    generator, trials = np.random.default_rng(12), 150
    false_shares, found_shares = [], []
    for _ in range(trials):
        found = significance.corrected(findings_of(np.array([3.0] * 10 + [0.0] * 20), generator))
        called = [place for place, one in enumerate(found) if one.verdict == "significant"]
        false_shares.append(sum(place >= 10 for place in called) / max(1, len(called)))
        found_shares.append(sum(place < 10 for place in called) / 10)
    error = 4 * float(np.std(false_shares)) / trials**0.5
    assert np.mean(false_shares) <= LEVEL + error and np.mean(found_shares) > 0.8


def test_a_correction_takes_the_verdict_and_the_better_side_and_keeps_the_interval():
    weak = Finding("significant", 1.0, 0.1, 1.9, 50, better=True, p_value=0.03)
    untested = Finding("not comparable", note="two different judges")
    found = significance.corrected([weak, untested, *[Finding("not significant", p_value=0.5)] * 9])
    assert found[0].verdict == "not significant" and found[0].better is None
    assert (found[0].low, found[0].high) == (0.1, 1.9)
    assert found[0].p_adjusted == pytest.approx(0.3)
    assert found[0].probability == "p = 0.03, 0.3 corrected"
    assert found[1] == untested and untested.probability == ""
    assert significance.corrected([weak])[0].verdict == "significant"
