"""`rlhf gates`: the verdicts of a run, one gate in full, and a gate of severity warning."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf_core.errors import GateRefused
from rlhf_core.gates.decide import Subject, decide_all
from rlhf_core.rundir import Artifact, StageResult, StageSpec
from tasks.records import events
from tasks.records.run_record import Record, StageRecord, records
from tasks.records.workspace import Workspace

ITEMS = {
    "pair_id": [f"pair{i}" for i in range(10)],
    "prompt": [f"question {i} [red]?[/red]" for i in range(10)],
    "chosen": ["good " * 60] * 10,
    "rejected": ["bad"] * 10,
    "chosen_score": [1.0] * 7 + [-4.0, -1.0, 0.0],
    "rejected_score": [0.0] * 10,
    "chosen_tokens": [3] * 10,
    "rejected_tokens": [2] * 10,
}
GATES = {
    "exact": {
        "stage": "reward",
        "metric": "reward/accuracy",
        "of": "lower",
        "method": "sign",
        "bound": "more than",
        "threshold": 0.3,
        "confidence": 0.9,
    },
    "margin": {
        "stage": "reward",
        "metric": "reward/heldout_margin",
        "bound": "at least",
        "threshold": 0.5,
        "severity": "warning",
    },
}


@pytest.fixture
def recorded(home, tmp_path, make_recipe) -> Record:
    """A run whose reward gate refused on ten pairs, as its pipeline left it."""
    workspace, run_dir = Workspace(home), home / "runs" / "reward-0123"
    run_dir.mkdir(parents=True)
    for name in ("model", "comparisons_heldout"):
        (tmp_path / name).write_text(name)
    (run_dir / "model").write_text("trained")
    inputs = {name: Artifact.of(tmp_path / name) for name in ("model", "comparisons_heldout")}
    spec = StageSpec(stage="reward", seed=1, config={}, inputs=inputs, code="source")
    pq.write_table(pa.table(ITEMS), run_dir / "items.parquet")
    metrics = {
        "reward/accuracy": 0.7,
        "reward/accuracy_lower": 0.397,
        "reward/heldout_pairs": 10,
        "reward/accuracy_over_length": -0.3,
        "reward/heldout_margin": 0.2,
    }
    result = StageResult(
        stage="reward",
        digest=spec.digest,
        seconds=1.0,
        metrics=metrics,
        counts=dict.fromkeys(metrics, 10),
        outputs={
            "model": Artifact(path=Path("model"), digest=Artifact.of(run_dir / "model").digest)
        },
        files={"items": "items.parquet"},
    )
    (run_dir / "spec.json").write_text(spec.model_dump_json())
    (run_dir / "result.json").write_text(result.model_dump_json())
    overrides = {"lower_bound": {"threshold": 0.3, "by": "Ada", "reason": "ten pairs must do here"}}
    rules = make_recipe(gates=GATES, reward={"gate": {"overrides": overrides, "min_pairs": 10}})
    record = Record.new(workspace, rules, "tiny-1a2b3c4-1")
    entry = StageRecord(stage="reward", run_dir=run_dir, started=1, status="FAILED")
    subject = Subject(entry.result, spec, run_dir, "1a2b3c4")
    entry.decisions = decide_all(rules, subject)
    record.stages = [entry]
    record.save(workspace)
    return record


def test_every_gate_of_a_run_is_shown(rlhf, recorded):
    code, out, _ = rlhf("gates", "latest")
    assert rlhf("gates", "latest~0")[1] == out
    assert code == 0 and "Gates of tiny-1a2b3c4-1" in out
    rows = {
        words[1]: line
        for line in out.splitlines()
        if (words := line.split()) and words[0] == "reward"
    }
    verdicts = ("refused", "overridden", "warning", "passed")
    assert {
        name: next(verdict for verdict in verdicts if verdict in row) for name, row in rows.items()
    } == {
        "pairs": "passed",
        "accuracy": "passed",
        "lower_bound": "overridden",
        "length_baseline": "refused",
        "exact": "passed",
        "margin": "warning",
    }
    # 7 of 10, exact
    assert (
        "lower 90% bound more than 0.3" in rows["exact"]
        and "0.3934 to 0.9127 (90%)" in rows["exact"]
    )
    assert "allowed to 0.3 by Ada: ten pairs must do here" in rows["lower_bound"]
    assert rlhf("gates")[1] == out == rlhf("gates", recorded.id[:12])[1]


def test_the_command_explains_itself(rlhf):
    code, out, _ = rlhf("gates", "--help")
    assert code == 0 and "gates [OPTIONS] [RUN]" in out and "--explain" in out


def test_gates_as_json_are_whole_records(rlhf, recorded):
    found = json.loads(rlhf("gates", "tiny-1a2b3c4-1", "--json")[1])
    assert (
        found["run"] == "tiny-1a2b3c4-1"
        and [row["verdict"] for row in found["gates"]].count("refused") == 1
    )
    accuracy = found["gates"][1]
    assert accuracy["value"] == 0.7 and accuracy["n"] == 10 and accuracy["rule"] == "at least 0.7"
    assert accuracy["model_digest"] == recorded.stages[0].result.outputs["model"].digest
    assert (
        set(accuracy["data_digests"]) == {"comparisons_heldout"} and accuracy["commit"] == "1a2b3c4"
    )


@pytest.mark.parametrize("name", ["accuracy", "reward.accuracy"])
def test_one_gate_is_explained_with_its_evidence_and_worst_pairs(rlhf, recorded, name):
    code, out, _ = rlhf("gates", "latest", "--explain", name)
    digest = recorded.stages[0].decisions[1].model_digest
    assert code == 0 and "reward.accuracy of tiny-1a2b3c4-1: passed" in out
    for words in (
        (
            "Wilson score interval of a share; share of items with chosen_score > rejected_score, a"
            " tie counting 0"
        ),
        digest,
        f"{recorded.stages[0].run_dir}/items.parquet",
        "comparisons_heldout",
        "commit 1a2b3c4",
        "n = 10",
        "at least 1 samples",
        "question 7 [red]?[/red]",
    ):
        assert words in out, words
    assert (
        out.index("margin -4,") < out.index("margin -1,") < out.index("margin 0,")
        and "margin 1" not in out
    )
    # long texts are cut
    assert "good good" in out and max(map(len, out.split("items  ")[1].splitlines())) < 200

    whole = json.loads(rlhf("gates", "latest", "--explain", name, "--json")[1])
    assert (
        whole["worst"]["columns"][:3] == ["margin", "pair_id", "prompt"]
        and len(whole["worst"]["data"]) == 3
    )
    assert (
        whole["worst"]["data"][0][:2] == [-4.0, "pair7"]
        and whole["worst"]["data"][0][3] == "good " * 60
    )


def test_the_sign_test_and_the_override_are_explained(rlhf, recorded):
    out = rlhf("gates", "latest", "--explain", "exact")[1]
    # 2 (1 + 10 + 45 + 120) / 1024
    assert "7 won and 3 lost items" in out and "sign test p = 0.344" in out
    assert (
        "to 0.3 by Ada: ten pairs must do here"
        in rlhf("gates", "latest", "--explain", "lower_bound")[1]
    )


def test_a_detectors_gate_names_its_figure(rlhf, recorded, home):
    stage = recorded.stages[0]
    stage.decisions[0] = stage.decisions[0].model_copy(
        update={"gate": "long", "metric": "eval/length_correlation"}
    )
    recorded.save(Workspace(home))
    file = stage.run_dir / "result.json"
    result = json.loads(file.read_text())
    file.write_text(
        json.dumps(result | {"files": result["files"] | {"detector_length": "detector_length.png"}})
    )
    assert f"{stage.run_dir}/detector_length.png" in rlhf("gates", "latest", "--explain", "long")[1]
    assert "figure" not in rlhf("gates", "latest", "--explain", "accuracy")[1]


def test_evidence_that_is_gone_is_said_to_be(rlhf, recorded):
    (recorded.stages[0].run_dir / "items.parquet").unlink()
    code, out, _ = rlhf("gates", "latest", "--explain", "accuracy")
    assert code == 0 and "items.parquet cannot be read" in out
    (recorded.stages[0].run_dir / "result.json").unlink()
    assert "the evidence with it" in rlhf("gates", "latest", "--explain", "accuracy")[1]
    assert "pairs" in rlhf("gates")[1]  # the records themselves are kept elsewhere


def test_a_metric_without_items_says_so(rlhf, recorded):
    assert (
        "reward/heldout_pairs is not computed from items"
        in rlhf("gates", "latest", "--explain", "pairs")[1]
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("latest~1",), ["'latest~1' names no run", "tiny-1a2b3c4-1"]),
        (("nosuch",), ["'nosuch' names no run", "tiny-1a2b3c4-1", "latest"]),
        (
            ("latest", "--explain", "acuracy"),
            ["has no gate 'acuracy'", "reward.accuracy", "reward.margin"],
        ),
        (("latest", "--explain", "ppo.accuracy"), ["has no gate 'ppo.accuracy'"]),
    ],
)
def test_unknown_runs_and_gates_are_named_with_the_known_ones(rlhf, recorded, words, says):
    code, _, err = rlhf("gates", *words)
    assert code == 2 and all(text in err for text in says)


def test_a_gate_name_of_two_stages_needs_its_stage(rlhf, recorded, home):
    kl = recorded.stages[0].decisions[0].model_copy(update={"gate": "kl"})
    for stage in ("ppo", "evaluate"):
        decision = kl.model_copy(update={"stage": stage})
        recorded.stages.append(
            StageRecord(stage=stage, run_dir=home / "gone", started=1, decisions=[decision])
        )
    recorded.save(Workspace(home))
    code, _, err = rlhf("gates", "latest", "--explain", "kl")
    assert code == 2 and "ppo.kl, evaluate.kl" in err
    assert rlhf("gates", "latest", "--explain", "ppo.kl")[0] == 0


def test_without_a_run_or_a_gate_a_sentence_says_so(rlhf, home, make_recipe):
    code, _, err = rlhf("gates")
    assert code == 2 and "'latest' names no run" in err and "none yet" in err
    Record.new(Workspace(home), make_recipe(), "tiny-1").save(Workspace(home))
    assert rlhf("gates")[1].startswith("No gate of tiny-1 was decided")


def test_names_of_runs_are_completed(recorded):
    from flows.cli.options import run_names

    assert run_names("tiny") == ["tiny-1a2b3c4-1"] and run_names("la") == ["latest"]


@pytest.fixture
def pipeline(make_recipe):
    """pipeline(**changes): run a recipe's stages up to the reward model."""
    from flows.pipeline import run_pipeline

    return lambda **changes: run_pipeline(make_recipe(**changes), until="reward")


@pytest.mark.slow
def test_a_warning_is_recorded_and_shown_and_the_pipeline_goes_on(pipeline, home, rlhf):
    lenient = {
        "stage": "sft",
        "metric": "sft/heldout_loss",
        "bound": "at most",
        "threshold": 1.5,
        "severity": "warning",
    }
    done = pipeline(gates={"loss": lenient})
    verdicts = {row.name: row.verdict for row in done.rows}
    assert verdicts == {"validate": "", "sft": "warning", "reward": "passed"}
    stage = Record.model_validate(records(Workspace(home))[-1]).stage("sft")
    assert stage.verdict == "warning" and stage.status == "FINISHED" and stage.error is None
    decision = stage.decisions[-1]
    assert (
        decision.gate == "loss"
        and not decision.passed
        and decision.model_digest == stage.result.outputs["model"].digest
    )
    assert decision.code == stage.spec.code
    assert [*decision.data_digests] == ["demonstrations_heldout"]
    assert "warning" in rlhf("status")[1] and "warning" in rlhf("gates")[1]


def test_bytes_that_changed_since_they_were_measured_are_refused_by_the_flow(pipeline, home):
    def change(event) -> None:  # as somebody else might, while the stage is under way
        if isinstance(event, events.StageProgress) and event.stage == "sft":
            split = next((home / "runs").glob("validate-*/demonstrations_heldout"))
            (split / "made_by_validate").write_text("other rows")

    end = events.subscribe(change)
    with pytest.raises(
        GateRefused, match=r"demonstrations_heldout has digest .*changed after it was made"
    ):
        pipeline()
    end()
    record = Record.model_validate(records(Workspace(home))[-1])
    assert record.stage("reward") is None and record.stage("sft").verdict == "refused"
