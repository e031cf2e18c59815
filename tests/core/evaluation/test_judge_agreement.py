"""Agreement of judge, reward model and people on labelled pairs, by hand."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_core.config import Evaluate, EvaluationJudge
from rlhf_core.config.stage_configs import EvaluateStageConfig
from rlhf_core.data.splits import save_split
from rlhf_core.evaluation.judge_agreement import (
    LabelledPairs,
    agreement_output,
    judge_labelled,
    labelled_pairs,
)
from rlhf_core.evidence.items import prompt_id
from rlhf_core.judging.judge import asking
from rlhf_core.judging.verdicts import JudgeAnswer
from rlhf_core.metrics import require_declared
from rlhf_core.rundir import Artifact, StageSpec
from rlhf_core.statistics.intervals import wilson


def row(prompt: str, chosen: str, rejected: str) -> dict:
    return {"prompt": [{"role": "user", "content": prompt}], "chosen": chosen, "rejected": rejected}


ROWS = [
    row("a", "short", "much longer"),
    row("b", "much longer", "short"),
    row("c", "same", "size"),
    row("c", "tiny", "larger"),
]
SCORES = [(1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (0.0, 1.0)]


def shorter(prompts, ours, theirs) -> list[float]:
    return [
        0.5 if len(a) == len(b) else float(len(a) < len(b))
        for a, b in zip(ours, theirs, strict=True)
    ]


def test_agreement_by_hand(tmp_path):
    """The judge prefers the shorter one, one of four is a tie; the reward model errs once."""
    output, verdicts = judge_labelled(LabelledPairs(ROWS, SCORES), asking(shorter), tmp_path)
    found = output.metrics
    require_declared(found)
    assert [verdict.outcome for verdict in verdicts] == [1.0, 0.0, 0.5, 1.0]
    assert (found["eval/agreement_pairs"], found["eval/agreement_prompts"]) == (4, 3)
    assert found["eval/agreement_judge_ties"] == 0.25
    assert found["eval/agreement_judge_people"] == pytest.approx(2 / 3)
    assert found["eval/agreement_judge_reward"] == pytest.approx(1 / 3)  # on the first alone
    assert found["eval/agreement_reward_people"] == 0.75
    counts = output.counts
    assert counts["eval/alpha_judge_people"] == 3 and counts["eval/alpha_reward_people"] == 4
    # the three decided pairs have prompts of their own
    assert output.intervals["eval/agreement_judge_people"] == wilson(2, 3)
    assert output.intervals["eval/agreement_reward_people"] != wilson(3, 4)


def test_every_pair_is_kept_with_scores_and_answers_in_both_orders(tmp_path):
    def first(prompts, ours, theirs) -> list[JudgeAnswer]:
        return [JudgeAnswer(1.0, f"{a} was first") for a in ours]

    output, _ = judge_labelled(LabelledPairs(ROWS, SCORES), first, tmp_path)
    columns = pq.read_table(tmp_path / output.files["judged_pairs"]).to_pydict()
    assert columns["prompt_id"][2] == columns["prompt_id"][3] == prompt_id(ROWS[2]["prompt"])
    assert columns["judge"] == [0.5] * 4
    assert columns["judge_chosen_first"] == [1.0] * 4
    assert columns["judge_chosen_second"] == [0.0] * 4
    assert columns["judge_chosen_second_reason"][0] == "much longer was first"
    assert columns["chosen_score"] == [chosen for chosen, _ in SCORES]
    assert "eval/agreement_judge_people" not in output.metrics  # no pair that it prefers one of
    assert output.metrics["eval/agreement_judge_ties"] == 1.0


def test_without_a_reward_model_judge_and_people_remain(tmp_path):
    output, _ = judge_labelled(LabelledPairs(ROWS, None), asking(shorter), tmp_path)
    assert output.metrics["eval/agreement_judge_people"] == pytest.approx(2 / 3)
    assert not [name for name in output.metrics if "reward" in name]


def test_pairs_without_a_verdict_are_left_out():
    preferred = {"judge": np.array([1.0, math.nan]), "people": np.ones(2)}
    output = agreement_output(preferred, None)
    assert output.metrics["eval/agreement_pairs"] == 1
    assert output.counts["eval/agreement_judge_people"] == 1


@pytest.mark.parametrize(
    ("judge", "with_split", "pairs"),
    [
        (EvaluationJudge(function="a:b", agreement_pairs=3), True, 3),
        (EvaluationJudge(function="a:b", agreement_pairs=0), True, None),
        (EvaluationJudge(function="a:b"), False, None),
        (None, True, None),
    ],
)
def test_pairs_are_drawn_where_there_are_a_judge_and_labels(judge, with_split, pairs, tmp_path):
    save_split(tmp_path / "heldout.jsonl", ROWS)
    inputs = {"comparisons_heldout": Artifact.of(tmp_path / "heldout.jsonl")} if with_split else {}
    config = EvaluateStageConfig(evaluate=Evaluate(judge=judge), dtype="float32")
    spec = StageSpec(stage="evaluate", seed=1, config=config, inputs=inputs, code="")
    found = labelled_pairs(spec)
    assert (found and len(found.rows)) == pairs
    assert labelled_pairs(spec) == found
