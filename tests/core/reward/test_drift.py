"""Drift of a reward model on later labels, by hand."""

import pytest
import torch

from rlhf_core.evidence.final_metrics import require_final
from rlhf_core.metrics import domain, require_declared
from rlhf_core.reward.drift import BeforeScores, drift_output
from rlhf_core.reward.heldout_pairs import PairScores
from rlhf_core.statistics.clusters import net_share
from rlhf_core.statistics.intervals import wilson


def scored(*pairs: tuple[float, float]) -> PairScores:
    chosen_N, rejected_N = torch.tensor(pairs).reshape(-1, 2).unbind(-1)
    tokens_N = torch.ones(len(pairs), dtype=torch.long)
    prompts = [f"prompt {i}" for i in range(len(pairs))]
    return PairScores(chosen_N, rejected_N, tokens_N, tokens_N, prompts)


# before: wrong, tie, right, right; after, a fifth pair between them: right, right, wrong, right
OLD = scored((2.0, 0.0), (0.0, 2.0))  # mean 1, standard deviation 1
BEFORE = BeforeScores(scored((3, 5), (4, 4), (5, 3), (6, 4)), [0, 1, 3, 4], OLD)
AFTER = scored((1, 0), (1, 0), (9, 0), (0, 1), (1, 0))


def test_accuracy_before_and_its_gain_on_the_same_pairs_by_hand():
    found = drift_output(BEFORE, AFTER)
    before, gain = "reward/accuracy_new_before", "reward/accuracy_new_gain"
    assert (found.metrics[before], found.metrics[gain]) == (0.5, 0.25)  # 3/4 - 2/4
    assert found.intervals[before] == wilson(2, 4)
    gained, lost = torch.tensor([1.0, 1, 0, 0]).numpy(), torch.tensor([0.0, 0, 1, 0]).numpy()
    assert (0.25, *found.intervals[gain]) == net_share(gained, lost, None)
    for name in (before, gain):
        ends = found.metrics[f"{name}_lower"], found.metrics[f"{name}_upper"]
        assert ends == found.intervals[name]
    assert found.metrics["reward/heldout_pairs_new_before"] == 4
    assert set(found.counts.values()) == {4} and found.counts.keys() == found.metrics.keys()


def test_the_scores_of_new_replies_are_measured_in_deviations_of_the_old_by_hand():
    """New scores: 3, 3, 4, 4, 4, 5, 5, 6, with the mean 34 / 8, and 152 / 8 of their squares."""
    found = drift_output(BEFORE, AFTER).metrics
    assert found["reward/score_shift_new"] == pytest.approx(3.25)
    assert found["reward/score_distance_new"] == pytest.approx(3.25)  # all new ones are above
    assert found["reward/spread_ratio_new"] == pytest.approx((19 - 4.25**2) ** 0.5)
    assert found["reward/score_shift_new_lower"] < 3.25 < found["reward/score_shift_new_upper"]


def test_every_metric_is_declared_and_within_its_domain():
    found = drift_output(BEFORE, AFTER)
    require_declared(found.metrics)
    require_final(found.metrics, found.intervals)
    for name, value in found.metrics.items():
        low, high = domain(name)
        assert low <= value <= high


def test_without_a_new_pair_that_it_has_not_seen_nothing_is_measured():
    nothing = BeforeScores(scored(), [], scored())
    assert drift_output(nothing, AFTER).metrics == {"reward/heldout_pairs_new_before": 0}


def test_scores_that_are_all_equal_have_no_unit():
    flat = BeforeScores(BEFORE.new, BEFORE.places, scored((1, 1), (1, 1)))
    found = drift_output(flat, AFTER).metrics
    assert found["reward/accuracy_new_before"] == 0.5 and "reward/score_shift_new" not in found
