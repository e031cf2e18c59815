"""Judges of two runs: what makes them different judges, and what does not."""

import pytest
from synthetic import Story, Synthetic

from rlhf_core.config import EvaluationJudge
from rlhf_core.rundir import StageSpec
from rlhf_core.stage_catalogue import EVALUATE
from tasks.analysis.comparability import no_common_scale
from tasks.analysis.run_evidence import RunEvidence, from_record

JUDGE = EvaluationJudge(endpoint="http://judge/v1", model="m").model_dump(mode="json")
EARLIER = {  # as an earlier version recorded it
    name: value
    for name, value in (JUDGE | {"max_tokens": 16}).items()
    if name not in ("reasons", "prompt_price", "completion_price", "agreement_pairs", "traces")
}


def judged(synthetic: Synthetic, name: str, judge: dict) -> RunEvidence:
    record = synthetic.write(Story(name))
    file = record.stage(EVALUATE.name).run_dir / "spec.json"
    spec = StageSpec.model_validate_json(file.read_text())
    changed = spec.model_copy(update={"config": {"evaluate": {"judge": judge}}})
    file.write_text(changed.model_dump_json())
    return from_record(record)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (JUDGE, True),
        (EARLIER, True),
        (JUDGE | {"parallel": 9, "prompt_price": 1.0, "traces": 0, "agreement_pairs": 7}, True),
        (JUDGE | {"model": "another"}, False),
        (JUDGE | {"reasons": True}, False),
        (EARLIER | {"max_tokens": 32}, False),
    ],
)
def test_a_judge_is_the_same_where_its_verdicts_are(synthetic, other, same):
    first, second = judged(synthetic, "a", JUDGE), judged(synthetic, "b", other)
    for metric in ("eval/judge_first_position", "eval/agreement_judge_people"):
        reason = no_common_scale(metric, first, second)
        assert (reason is None) == same and (same or reason == "two different judges")
