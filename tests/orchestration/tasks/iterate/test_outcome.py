"""The outcome of a round, of runs that were never trained."""

import pytest
from synthetic import Story

from rlhf_core.gates.decide import Decision
from tasks.iterate.iteration import Iteration, LabelRequest
from tasks.iterate.outcome import is_settled, newest_record, round_of
from tasks.records.promotion_record import PromotionRecord
from tasks.records.run_record import Record


@pytest.fixture
def iteration(home) -> Iteration:
    request = LabelRequest(by="m:f", sources=("onpolicy",), pick="random", pairs=5)
    return Iteration(
        id="i1",
        name="tiny-iterate",
        recipe="tiny",
        registry="tiny",
        request=request,
        rounds_wanted=2,
        tracking_uri=f"sqlite:///{home / 'mlflow.db'}",
    )


def decision(stage: str, gate: str, *, passed: bool) -> Decision:
    return Decision(
        stage=stage,
        gate=gate,
        metric=f"{stage}/accuracy",
        value=0.5,
        n=100,
        interval=None,
        bound="at least",
        threshold=0.7,
        passed=passed,
        reason="it is 0.5",
    )


def test_a_finished_run_was_promoted_or_lost_the_contest(synthetic):
    record = synthetic.write(Story("made", policy="policy-b"))
    record.status = "FINISHED"
    for promoted, outcome in ((True, "promoted"), (False, "not promoted")):
        record.promotion = PromotionRecord(
            model="tiny-policy", version="2", promoted=promoted, reason="because"
        )
        found = round_of(record, 1, None, "c")
        assert (found.outcome, found.reason, found.champion) == (outcome, "because", "c")
    assert found.policy == synthetic.artifact("policy-b", model=True).digest
    assert found.reward == synthetic.artifact("reward-a", model=True).digest
    assert found.metrics["reward/accuracy"].value == pytest.approx(0.8, abs=0.1)


def test_a_refused_run_names_its_gates_and_has_no_policy(synthetic):
    record = synthetic.write(Story("early", until="reward"))
    record.status, record.error = "FAILED", "reward is refused: it is 0.5."
    record.stages[-1].decisions = [
        decision("reward", "accuracy", passed=False), decision("reward", "pairs", passed=True)
    ]  # fmt: skip
    found = round_of(record, 1, None, None)
    assert (found.outcome, found.refused_by) == ("refused", ["reward.accuracy"])
    assert found.policy is None and found.reason.startswith("reward is refused")
    assert is_settled(record)


def test_a_run_that_was_killed_is_not_settled_and_the_newest_of_a_round_counts(
    synthetic, iteration
):
    assert newest_record(synthetic.workspace, iteration, 1) is None and not is_settled(None)

    def record(name: str, number: int, status: str, started: int) -> Record:
        found = synthetic.write(Story(name))
        found.sweep, found.status = iteration.membership(number), status
        found.started = started
        found.save(synthetic.workspace)
        return found

    record("first", 1, "KILLED", 1)
    found = newest_record(synthetic.workspace, iteration, 1)
    assert found is not None and not is_settled(found)
    record("second", 1, "FINISHED", 2)
    record("other", 2, "KILLED", 3)
    found = newest_record(synthetic.workspace, iteration, 1)
    assert found is not None and found.name == "second" and is_settled(found)
