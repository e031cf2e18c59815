"""The judge on the policy's replies: which prompts it is asked about."""

import pytest

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import Evaluate
from rlhf_core.config.judge import EvaluationJudge
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.evaluation.judged import judge_replies
from rlhf_core.evaluation.replies import Replies, Setup
from rlhf_core.judging.judge import asking

COUNT = 40


def replied(name: str) -> Replies:
    return Replies([Sequence([2], [3])] * COUNT, [f"{name} {i}" for i in range(COUNT)], [True])


@pytest.mark.parametrize(("drawn_by", "is_same"), [(7, True), (None, False)])
def test_runs_of_other_seeds_judge_the_same_prompts(tiny_model, drawn_by, is_same):
    """Bug: the training seed drew them, so that two runs shared few judged prompts."""
    rows = [{"prompt": [{"role": "user", "content": f"w{i}"}]} for i in range(COUNT)]
    config = Evaluate(judge=EvaluationJudge(function="a:b", max_pairs=10))
    replies = {"policy": replied("ours"), "sft": replied("theirs")}
    judge = asking(lambda prompts, a, b: [1.0] * len(prompts))
    judged = []
    for seed in (1, 2):
        tokenizer = load_tokenizer(tiny_model)
        setup = Setup(tokenizer, rows, config, seed, "float32", drawn_by=drawn_by)
        found, columns, _ = judge_replies(setup, judge, replies, [f"p{i}" for i in range(COUNT)])
        assert found.counts["eval/judge_win_rate"] == 10
        judged.append([i for i, value in enumerate(columns["judge_vs_sft"]) if value is not None])
    assert (judged[0] == judged[1]) == is_same
