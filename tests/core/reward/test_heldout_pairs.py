"""Held-out metrics of a reward model against hand-computed values."""

import pytest
import torch

from rlhf_core.batching.batch import Sequence
from rlhf_core.reward.heldout_pairs import heldout_metrics, pair_scores


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
