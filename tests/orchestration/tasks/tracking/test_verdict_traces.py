"""A judge's verdicts are found in MLflow by its own search; the stores and the server are real."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.entities import Trace
from mlflow_server import mlflow_server
from synthetic import Story, Synthetic

from flows.platform.pages import free_port
from rlhf_core.evidence.items import read_items, write_items
from rlhf_core.rundir import StageResult
from tasks.records.run_record import Record
from tasks.records.workspace import Workspace
from tasks.tracking.forwarder import Forwarder
from tasks.tracking.verdict_traces import judged_pairs

JUDGE = {"endpoint": "http://127.0.0.1:1/v1", "model": "judge-7b", "reasons": True}
LABELLED = {
    "pair_id": ["p0", "p1"],
    "prompt_id": ["q0", "q1"],
    "prompt": ["Say hello.", "Say bye."],
    "chosen": ["Hello!", "Bye!"],
    "rejected": ["No.", "Never."],
    "chosen_score": [1.0, 0.0],
    "rejected_score": [0.0, 2.0],
    "judge": [1.0, 0.5],
    "judge_chosen_first": [1.0, 1.0],
    "judge_chosen_second": [1.0, 0.0],
}


def judged_run(workspace: Workspace, folder: Path, uri: str | None = None, **judge) -> Record:
    """Return a run whose judge has compared six of eight prompts, and two labelled pairs."""
    story = Story("judged", prompts=8, settings={"evaluate": {"judge": JUDGE | judge}})
    record = Synthetic(workspace, folder).write(story)
    record.stages = [record.stage("evaluate")]
    if uri:
        record.tracking_uri = uri
    run_dir = record.stage("evaluate").run_dir
    outcomes = [1.0, 1.0, 0.5, None, 0.0, 1.0, None, 0.5]
    reasons = [None if outcome is None else f"because of {i}" for i, outcome in enumerate(outcomes)]
    write_items(
        run_dir,
        read_items(run_dir / "items.parquet")
        | {
            "judge_vs_sft": outcomes,
            "judge_vs_sft_policy_first": outcomes,
            "judge_vs_sft_policy_second": [0.0 if one == 0.5 else one for one in outcomes],
            "judge_vs_sft_policy_first_reason": reasons,
            "judge_vs_sft_policy_second_reason": [None] * 8,
        },
    )
    pq.write_table(pa.table(LABELLED), run_dir / "judged_pairs.parquet")
    result = StageResult.model_validate_json((run_dir / "result.json").read_text())
    files = result.files | {"judged_pairs": "judged_pairs.parquet"}
    changed = result.model_copy(update={"files": files})
    (run_dir / "result.json").write_text(changed.model_dump_json())
    return record


def forwarded(workspace: Workspace, record: Record) -> MlflowClient:
    forwarder = Forwarder(workspace, record)
    forwarder.forward()
    return forwarder.client


def traces_of(client: MlflowClient, record: Record, where: str | None = None) -> list[Trace]:
    run_id = record.stage("evaluate").run_id
    return client.search_traces(
        locations=[record.experiment_id], run_id=run_id, filter_string=where, max_results=100
    )


def by_prompt(traces: list[Trace]) -> dict[str, Trace]:
    return {trace.data.spans[0].inputs["prompt"]: trace for trace in traces}


def assert_verdicts_are_shown(client: MlflowClient, record: Record) -> None:
    traces = traces_of(client, record)
    assert len(traces) == 6 + 2
    found = by_prompt(traces)
    items = read_items(record.stage("evaluate").run_dir / "items.parquet")
    trace = found[items["prompt"][4]]
    (span,) = trace.data.spans
    assert span.inputs["policy"] == items["policy_reply"][4]
    assert span.inputs["sft"] == items["sft_reply"][4] and span.outputs == "sft"
    (verdict,) = trace.info.assessments
    assert (verdict.name, verdict.value) == ("judge", "sft")
    assert (verdict.source.source_type, verdict.source.source_id) == ("LLM_JUDGE", "judge-7b")
    assert verdict.rationale == "policy shown first: sft. because of 4\nsft shown first: sft"
    assert verdict.run_id == record.stage("evaluate").run_id
    tied = found[items["prompt"][2]].info.assessments[0]
    assert tied.value == "tie" and tied.rationale.endswith("sft shown first: sft")
    labelled = {one.name: one for one in found["Say bye."].info.assessments}
    values = {name: one.value for name, one in labelled.items()}
    assert values == {"judge": "tie", "people": "chosen", "reward_model": "rejected"}
    assert labelled["people"].source.source_type == "HUMAN"
    assert len(traces_of(client, record, "feedback.judge = 'policy'")) == 3
    assert len(traces_of(client, record, "tags.comparison = 'judge_vs_people'")) == 2


def test_verdicts_are_assessments_of_traces_and_forwarding_again_doubles_nothing(home, tmp_path):
    workspace = Workspace.here()
    record = judged_run(workspace, tmp_path)
    assert_verdicts_are_shown(forwarded(workspace, record), record)
    stage = record.stage("evaluate")
    stage.closed, stage.offset = False, 0  # as if the process had died before it could note it
    assert_verdicts_are_shown(forwarded(workspace, record), record)


@pytest.mark.slow
def test_verdicts_are_shown_by_a_server(home, tmp_path):
    port = free_port()
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server", port):
        workspace = Workspace.here()
        record = judged_run(workspace, tmp_path, f"http://127.0.0.1:{port}")
        assert_verdicts_are_shown(forwarded(workspace, record), record)
        stage = record.stage("evaluate")
        stage.closed = False
        assert_verdicts_are_shown(forwarded(workspace, record), record)


def test_the_number_of_traces_is_bounded_and_a_function_is_no_language_model(home, tmp_path):
    workspace = Workspace.here()
    function = {"endpoint": None, "model": None, "reasons": False, "function": "rules:judge"}
    record = judged_run(workspace, tmp_path, traces=2, **function)
    traces = traces_of(forwarded(workspace, record), record)
    assert len(traces) == 2 + 2
    sources = {
        (one.source.source_type, one.source.source_id)
        for trace in traces
        for one in trace.info.assessments
    }
    assert ("CODE", "rules:judge") in sources and not [s for s, _ in sources if s == "LLM_JUDGE"]


def test_no_traces_are_stored_where_the_recipe_wants_none_or_has_no_judge(home, tmp_path):
    workspace = Workspace.here()
    record = judged_run(workspace, tmp_path, traces=0)
    assert traces_of(forwarded(workspace, record), record) == []
    plain = Synthetic(workspace, tmp_path).write(Story("plain", prompts=8)).stage("evaluate")
    assert list(judged_pairs(plain.result, plain.run_dir, 10)) == []
