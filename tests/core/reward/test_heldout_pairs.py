"""Held-out metrics of a reward model against hand-computed values."""

import pytest
import torch

from rlhf_core.batching.batch import Sequence
from rlhf_core.reward.heldout_pairs import heldout_metrics, pair_scores
from rlhf_core.statistics.intervals import wilson


def test_reward_metrics_by_hand_count_a_tie_as_wrong():
    lengths = [(3, 2), (2, 4), (2, 2), (1, 5)]
    sequences = [Sequence([5], [6] * n) for pair in lengths for n in pair]
    scores = torch.tensor([1.0, 0.0, 2.0, 2.0, 0.0, 1.0, 3.0, 0.0])
    found = heldout_metrics(pair_scores(scores, sequences))
    assert found["reward/accuracy"] == 0.5  # right, tie, wrong, right
    assert found["reward/length_baseline"] == pytest.approx(0.375)  # right, wrong, half, wrong
    assert found["reward/accuracy_when_shorter"] == 0.5  # pairs 2 and 4
    assert found["reward/heldout_margin"] == pytest.approx(0.75)
    # margins 1, 0, -1, 3 and token gaps 1, -2, 0, -4: covariance (1 + 0 + 0 - 12) / 4 - 0.75 *
    # -1.25
    assert found["reward/length_correlation"] == pytest.approx(-1.8125 / (2.1875 * 3.6875) ** 0.5)


def metrics_of_pairs(prompts: int) -> dict[str, float]:
    """Return the metrics of 120 pairs, of which the first 84 are right, over so many prompts."""
    scores = torch.tensor([[1.0, 0.0]] * 84 + [[0.0, 1.0]] * 36).flatten()
    rows = [
        {"prompt": [{"role": "user", "content": f"question {i * prompts // 120}"}]}
        for i in range(120)
    ]
    return heldout_metrics(pair_scores(scores, [Sequence([5], [6])] * 240, rows))


def test_pairs_that_share_prompts_widen_the_interval_of_the_accuracy():
    """All six pairs of a prompt agree, so that they say as much as one pair: 20 of them."""
    alone, shared = metrics_of_pairs(120), metrics_of_pairs(20)
    assert (alone["reward/accuracy_lower"], alone["reward/accuracy_upper"]) == wilson(84, 120)
    assert (alone["reward/heldout_pairs"], alone["reward/heldout_prompts"]) == (120, 120)
    assert (shared["reward/heldout_pairs"], shared["reward/heldout_prompts"]) == (120, 20)
    assert shared["reward/accuracy"] == alone["reward/accuracy"] == 0.7
    # Wilson's of 14 in 20 is 0.481 to 0.855; Student's t of 19 degrees of freedom widens it
    assert shared["reward/accuracy_lower"] == pytest.approx(0.461, abs=0.005)
    assert shared["reward/accuracy_upper"] == pytest.approx(0.865, abs=0.005)
