"""Held-out metrics of a reward model against hand-computed values."""

import pytest
import torch

from rlhf_core.batching.batch import Sequence
from rlhf_core.evidence.final_metrics import require_final
from rlhf_core.metrics import require_declared
from rlhf_core.reward.heldout_pairs import PairScores, heldout_metrics, pair_scores, subset_output
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


def test_the_accuracy_of_each_subset_with_its_interval_by_hand():
    """Of four pairs of `easy` three are right, of two of `hard` one; one pair has no subset."""
    chosen = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 5.0])
    tokens = torch.ones(7, dtype=torch.long)
    pairs = PairScores(chosen, torch.zeros(7), tokens, tokens)
    names = ["easy"] * 4 + ["hard"] * 2 + [None]
    rows = [{"meta": {"subset": name}} for name in names]
    found = subset_output(pairs, rows)
    easy, hard = "reward/subset/easy/accuracy", "reward/subset/hard/accuracy"
    assert (found.metrics[easy], found.counts[easy]) == (0.75, 4)
    assert (found.metrics[hard], found.counts[f"{hard}_upper"]) == (0.5, 2)
    assert found.intervals[easy] == found.intervals[f"{easy}_lower"] == wilson(3, 4)
    assert (found.metrics[f"{hard}_lower"], found.metrics[f"{hard}_upper"]) == wilson(1, 2)
    assert len(found.metrics) == 6
    require_declared(found.metrics)
    require_final(found.metrics, found.intervals)


def test_pairs_of_a_subset_that_share_a_prompt_are_sampled_together():
    chosen, tokens = torch.tensor([1.0, 1.0, 0.0, 0.0] * 10), torch.ones(40, dtype=torch.long)
    prompts = [f"p{i // 2}" for i in range(40)]
    rows = [{"meta": {"subset": "one" if i < 20 else "two"}} for i in range(40)]
    shared = subset_output(PairScores(chosen, torch.zeros(40), tokens, tokens, prompts), rows)
    alone = subset_output(PairScores(chosen, torch.zeros(40), tokens, tokens), rows)
    name = "reward/subset/one/accuracy"
    assert shared.metrics[name] == alone.metrics[name] == 0.5
    assert shared.intervals[name][0] < alone.intervals[name][0]


def test_names_that_no_metric_can_have_and_data_without_subsets_give_none():
    tokens = torch.ones(2, dtype=torch.long)
    pairs = PairScores(torch.ones(2), torch.zeros(2), tokens, tokens)
    assert subset_output(pairs, [{"meta": {"subset": "a b"}}, {"meta": {}}]).metrics == {}
    assert subset_output(pairs, [{}, {}]).metrics == {}
