"""The outcome of a round, of runs that were never trained."""

from datetime import UTC, datetime

import pytest
from iterations import made_iteration
from synthetic import Story

from rlhf_core.gates.decide import Decision
from rlhf_core.rundir import Artifact, StageResult, StageSpec
from tasks.iterate.iteration import Iteration
from tasks.iterate.outcome import has_outcome, newest_record, round_of, undecided_gates
from tasks.records.approval_record import ApprovalRecord
from tasks.records.promotion_record import PromotionRecord
from tasks.records.run_record import Record, StageRecord


@pytest.fixture
def iteration(home) -> Iteration:
    return made_iteration(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")


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
    assert has_outcome(record)


def test_a_run_that_was_killed_has_no_outcome_and_the_newest_of_a_round_counts(
    synthetic, iteration
):
    assert newest_record(synthetic.workspace, iteration, 0) is None and not has_outcome(None)

    def record(name: str, number: int, status: str, started: int) -> Record:
        found = synthetic.write(Story(name))
        found.sweep, found.status = iteration.membership(number), status
        found.started = started
        found.save(synthetic.workspace)
        return found

    record("first", 0, "KILLED", 1)
    found = newest_record(synthetic.workspace, iteration, 0)
    assert found is not None and not has_outcome(found)
    record("second", 0, "FINISHED", 2)
    record("other", 2, "KILLED", 3)
    found = newest_record(synthetic.workspace, iteration, 0)
    assert found is not None and found.name == "second" and has_outcome(found)


def validated(synthetic, record: Record, *, found: float = 30.0, **inputs: Artifact) -> StageRecord:
    """Give a record, and return, a finished stage validate alone, with these further inputs."""
    spec: StageSpec = StageSpec(
        stage="validate", seed=1, config={"of": record.name}, inputs=inputs, code="c0de" * 16
    )
    folder = synthetic.workspace.run_dir(spec)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(spec.model_dump_json())
    result = StageResult(
        stage="validate",
        digest=spec.digest,
        outputs={},
        metrics={"data/new_comparisons_heldout": found},
        seconds=1.0,
        environment={},
    )
    (folder / "result.json").write_text(result.model_dump_json())
    record.stages = [StageRecord(stage="validate", run_dir=folder, status="FINISHED", started=1)]
    return record.stages[0]


def test_a_run_on_other_labels_is_not_the_runs_of_the_round(synthetic, iteration):
    """Bug: after its folder was removed, a loop made new labels, and did not train on them."""
    workspace = synthetic.workspace
    files = iteration.label_files(workspace, 2)
    for number, file in enumerate(files, 1):
        file.parent.mkdir(parents=True)
        file.write_text(f"labels of round {number}")
    data = {"demonstrations": "d", "comparisons": "c", "new_comparisons": ["own", *map(str, files)]}
    record = synthetic.write(Story("made", settings={"data": data}))
    record.sweep, record.status = iteration.membership(2), "FINISHED"
    record.save(workspace)
    assert newest_record(workspace, iteration, 2) is None  # it has read no labels

    names = {f"new_comparisons_{number}": file for number, file in enumerate(files, 2)}
    validated(synthetic, record, **{name: Artifact.of(file) for name, file in names.items()})
    record.save(workspace)
    found = newest_record(workspace, iteration, 2)
    assert found is not None and found.id == record.id
    files[0].write_text("made anew")
    assert newest_record(workspace, iteration, 2) is None


def test_too_few_new_pairs_for_a_gate_are_a_refused_round_and_no_bad_input(synthetic):
    """Bug: each retry of the round failed in the same way, because its labels stay."""
    data = {"demonstrations": "d", "comparisons": "c", "new_comparisons": ["n"]}
    reward = {"gate": {"min_new_accuracy": 0.5}}
    own = {"stage": "reward", "metric": "reward/accuracy_new", "bound": "more than"}
    gates = {"mine": own | {"threshold": 0.5, "min_n": 25}}
    settings = {"data": data, "reward": reward, "gates": gates}
    record = synthetic.write(Story("few", settings=settings))
    record.status, record.error = "FAILED", "reward.gate (new_pairs) needs 20 items."
    for found, waiting in ((19.0, ["reward.new_pairs", "reward.mine"]), (20.0, ["reward.mine"])):
        validated(synthetic, record, found=found, of=synthetic.artifact(f"found {found}"))
        assert undecided_gates(record) == waiting and has_outcome(record)
        ended = round_of(record, 1, None, "c")
        assert (ended.outcome, ended.refused_by) == ("refused", waiting)
        assert ended.reason.endswith("The labels of later rounds may be enough.")
    validated(synthetic, record, found=25.0, of=synthetic.artifact("enough"))
    assert not has_outcome(record) and undecided_gates(record) == []  # bad input of another kind


def test_a_refusal_counts_when_a_gate_or_a_person_has_said_no(synthetic):
    """Bug: aliases that were moved by hand, or an approval out of time, ended a round for good."""
    record = synthetic.write(Story("made"))
    record.status, record.error = "FAILED", "somebody moves aliases by hand"
    record.stages[-1].decisions = [decision("evaluate", "win_rate", passed=True)]
    assert not has_outcome(record)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    asked = ApprovalRecord(evidence="e", run="made", asked_at=at, until=at, state="expired")
    record.approval = asked
    assert not has_outcome(record)
    record.approval = asked.model_copy(update={"state": "rejected", "by": "ann"})
    assert has_outcome(record)
    assert round_of(record, 1, None, None).refused_by == ["approval"]
