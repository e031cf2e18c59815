"""`rlhf reward-report` in the terminal, as JSON and as a page; its learning curve."""

import itertools
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pages import EVIL, assert_self_contained
from synthetic import Story, Synthetic

from flows.report.reward import advice, reward_page
from rlhf_core.batching.batch import subset
from rlhf_core.config import Reward
from rlhf_core.config.stage_configs import RewardStageConfig
from rlhf_core.digest import code_digest
from rlhf_core.errors import ConfigError
from rlhf_core.evidence.items import write_items
from rlhf_core.rundir import Artifact, RunDir, StageResult, StageSpec
from tasks.analysis.reward_report import LearningPoint, counts, learning_curve, report
from tasks.records.run_record import Record
from tasks.records.workspace import Workspace


def reward_config(max_train: int | None) -> RewardStageConfig:
    return RewardStageConfig(reward=Reward(max_train=max_train), train=True, dtype="float32")


def pairs_of(run_dir: Path, **columns) -> None:
    items = pq.read_table(run_dir / "items.parquet").to_pydict()
    write_items(run_dir, items | columns)


@pytest.fixture
def recorded(home, tmp_path) -> Record:
    """Record a run whose reward model is right in 96 of 120 pairs, in 'safety' in 20 of 40."""
    record = Synthetic(Workspace(home), tmp_path).write(Story("tiny-1a2b3c4-1"))
    run_dir = record.stage("reward").run_dir
    items = pq.read_table(run_dir / "items.parquet").to_pydict()
    wrong = [i for i, score in enumerate(items["chosen_score"]) if score < 0]
    right = [i for i in range(120) if i not in wrong]
    safety = {*wrong[:20], *right[:20]}
    pairs_of(
        run_dir,
        **{"data.dimension": ["safety" if i in safety else "helpfulness" for i in range(120)]},
        agreement=[1.0 if i in right else 2 / 3 for i in range(120)],
        chosen=[EVIL] * 120,
    )
    record.save(Workspace(home))
    return record


def test_json_holds_slices_calibration_curves_and_mistakes(rlhf, recorded, home):
    code, out, _ = rlhf("reward-report", "latest", "--json")
    assert code == 0
    found = json.loads(out)
    by = {(row["column"], row["value"]): row for row in found["slices"]}
    assert by["all pairs", ""]["accuracy"] == 0.8 and by["dimension", "safety"]["n"] == 40
    assert (
        by["dimension", "safety"]["accuracy"] == 0.5
        and by["dimension", "safety"]["against_rest"][2] < 0
    )
    assert by["annotator agreement", "0.667"]["accuracy"] == 0.0
    assert [step for step, _ in found["curves"]["reward/loss"]] == list(range(1, 21))
    assert (
        sum(part["n"] for part in found["calibration"]) == 120 and len(found["calibration"]) == 10
    )
    assert len(found["mistakes"]) == 20 and found["mistakes"][0]["agreement"] == 2 / 3
    assert found["learning_curve"] == [] and Path(found["page"]).is_file()


def test_the_terminal_names_the_slices_that_differ_and_the_worst_mistakes(rlhf, recorded, tmp_path):
    code, out, _ = rlhf("reward-report", "--mistakes", "2", "--html", tmp_path / "page.html")
    assert code == 0
    line = next(line for line in out.splitlines() if line.split()[:2] == ["dimension", "safety"])
    assert "0.500" in line and line.rstrip().endswith("worse")
    assert "  2. wrong with" in out and "  3. wrong with" not in out and "agreement 0.667" in out
    assert (tmp_path / "page.html").is_file()


def test_the_page_is_self_contained_and_escapes_what_models_wrote(recorded, home):
    found = report(recorded, shares=[], workspace=Workspace(home))
    seen = assert_self_contained(reward_page(found))
    assert "worse than the rest" in seen.text and "helpfulness" in seen.text and EVIL in seen.text
    assert "svg" in seen.tags and "not asked for" in seen.text.lower()


def test_a_run_without_a_reward_stage_is_refused_with_a_reason(rlhf, home, tmp_path):
    Synthetic(Workspace(home), tmp_path).write(Story("short", until="sft")).save(Workspace(home))
    code, _, err = rlhf("reward-report", "latest")
    assert code == 2 and "no finished reward stage" in err
    code, _, err = rlhf("reward-report", "latest", "--learning-curve", "half")
    assert code == 2 and "expected shares" in err


def finished(workspace: Workspace, spec: StageSpec, right: int, folder: Path | None = None) -> Path:
    """Write a finished reward stage that is right in the first `right` of 40 pairs."""
    folder = folder or workspace.run_dir(spec)
    RunDir(folder)
    scores = [1.0] * right + [-1.0] * (40 - right)
    items = {
        "pair_id": [str(i) for i in range(40)],
        "chosen_score": scores,
        "rejected_score": [0.0] * 40,
    }
    metrics = {
        "reward/accuracy": right / 40,
        "reward/accuracy_lower": 0.1,
        "reward/accuracy_upper": 0.9,
        "reward/heldout_loss": 0.5,
    }
    result = StageResult(
        stage="reward",
        digest=spec.digest,
        metrics=metrics,
        seconds=1.0,
        files=write_items(folder, items),
    )
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "result.json").write_text(result.model_dump_json())
    return folder


@pytest.fixture
def reward_stage(home, tmp_path):
    """Return a recorded reward stage of 64 pairs, made by older code, and its workspace."""
    (tmp_path / "train.jsonl").write_text("{}\n" * 64)
    (tmp_path / "heldout.jsonl").write_text("{}\n" * 40)
    inputs = {
        f"comparisons_{side}": Artifact.of(tmp_path / f"{side}.jsonl")
        for side in ("train", "heldout")
    }
    config = reward_config(max_train=None)
    spec = StageSpec(stage="reward", seed=1, config=config, inputs=inputs, code="older")
    record = Synthetic(Workspace(home), tmp_path).write(Story("tiny-1a2b3c4-1"))
    stage = record.stage("reward")
    stage.run_dir = finished(Workspace(home), spec, 32)
    return stage, Workspace(home)


def test_the_learning_curve_takes_a_stage_a_share_and_the_run_itself(reward_stage):
    stage, workspace = reward_stage
    for pairs, right in ((16, 20), (32, 30)):
        config = reward_config(max_train=pairs)
        finished(
            workspace,
            stage.spec.model_copy(update={"config": config, "code": code_digest()}),
            right,
        )
    points = learning_curve(stage, [0.5, 0.25], workspace)
    assert [(p.pairs, p.accuracy) for p in points] == [(16, 0.5), (32, 0.75), (64, 0.8)]
    assert points[0].gain is None and points[1].gain[0] == 0.25 and points[1].gain[1] > 0
    assert points[2].gain[0] == pytest.approx(0.05) and points[2].gain[1] < 0
    assert "no significant change" in advice(points) and "still rising" in advice(points[:2])
    assert "it fell" in advice(
        [points[0], LearningPoint(32, 0.4, 0.3, 0.5, 0.7, (-0.1, -0.2, -0.05))]
    )


def test_shares_outside_the_data_are_refused_and_the_whole_is_not_trained_again(reward_stage):
    spec = reward_stage[0].spec
    assert counts(spec, [0.25, 0.999, 0.001]) == [1, 16]
    with pytest.raises(ConfigError, match="between 0 and 1"):
        counts(spec, [0.5, 1.5])
    limited = spec.model_copy(update={"config": reward_config(max_train=20)})
    assert counts(limited, [0.5]) == [10]


def with_inputs(reward_stage, folder: Path, **lines: int) -> StageSpec:
    """Give the recorded stage further inputs, files of so many lines."""
    more = {}
    for name, count in lines.items():
        (folder / name).write_text("{}\n" * count)
        more[name] = Artifact.of(folder / name)
    stage, workspace = reward_stage
    spec = stage.spec.model_copy(update={"inputs": stage.spec.inputs | more})
    finished(workspace, spec, 32, stage.run_dir)
    return stage.spec


def point(spec: StageSpec, pairs: int) -> StageSpec:
    """Return the spec of a point of the curve: that many old pairs, from the SFT model."""
    inputs = {name: item for name, item in spec.inputs.items() if name != "start"}
    update = {"config": reward_config(max_train=pairs), "inputs": inputs, "code": code_digest()}
    return spec.model_copy(update=update)


def test_later_labels_are_counted_in_every_point(reward_stage, tmp_path):
    """Bug: a point of half of the old pairs and all new ones was said to have the first alone."""
    spec = with_inputs(reward_stage, tmp_path, new_comparisons_train=16)  # of 80 in all
    stage, workspace = reward_stage
    assert counts(spec, [0.5]) == [40]
    with pytest.raises(ConfigError, match="a share of 8 of 80 training pairs, 16 of which are new"):
        counts(spec, [0.5, 0.1])
    finished(workspace, point(spec, 24), 20)
    points = learning_curve(stage, [0.5], workspace)
    assert [(p.pairs, p.accuracy) for p in points] == [(40, 0.5), (80, 0.8)]


def test_a_reward_model_that_went_on_has_a_curve_that_begins_anew(reward_stage, tmp_path):
    """Bug: every point went on from a model that had been trained on all pairs."""
    spec = with_inputs(reward_stage, tmp_path, start=1)
    stage, workspace = reward_stage
    for pairs, right in ((32, 20), (64, 30)):
        finished(workspace, point(spec, pairs), right)
    points = learning_curve(stage, [0.5], workspace)
    assert [(p.pairs, p.accuracy) for p in points] == [(32, 0.5), (64, 0.75)]


def test_smaller_training_sets_lie_inside_larger_ones():
    rows = list(range(200))
    random.Random(0).shuffle(rows)
    subsets = [set(subset(rows, limit, seed=3)) for limit in (25, 50, 100, 200)]
    assert all(small < large for small, large in itertools.pairwise(subsets))


def test_a_persons_labels_of_the_policys_replies_are_read_when_they_come(rlhf, recorded, tmp_path):
    (tmp_path / "labels.jsonl").write_text('{"id": "0-0", "label": "a"}\n')
    code, _, err = rlhf("reward-report", "--labels", tmp_path / "labels.jsonl")
    assert code == 2 and "expected a run with ppo.reward_check set" in err
    folder = recorded.stage("ppo").run_dir / "onpolicy"
    folder.mkdir()
    for step, right in ((0, 9), (10, 4)):
        about = {
            "step": step,
            "prompt": "p",
            "reply_a": "x",
            "reply_b": "y",
            "score_b": 0.0,
            "label": None,
        }
        pairs = [
            about | {"id": f"{step}-{i}", "score_a": 1.0 if i < right else -1.0} for i in range(12)
        ]
        (folder / f"step-{step:06d}.jsonl").write_text(
            "".join(json.dumps(pair) + "\n" for pair in pairs)
        )
    code, out, _ = rlhf("reward-report", "--html", tmp_path / "page.html")
    assert code == 0 and "wait for labels" in out and "0 of 12" in out
    labels = [{"id": f"{step}-{i}", "label": "a"} for step in (0, 10) for i in range(12)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    code, out, _ = rlhf(
        "reward-report",
        "--labels",
        tmp_path / "labels.jsonl",
        "--json",
        "--html",
        tmp_path / "page.html",
    )
    first, last = json.loads(out)["checks"]
    assert (first["accuracy"][0], last["accuracy"][0]) == (9 / 12, 4 / 12) and first["fall"] is None
    assert last["fall"][0] == pytest.approx(5 / 12) and last["labelled"] == 12
    seen = assert_self_contained((tmp_path / "page.html").read_text())
    assert "below the SFT model's replies" in seen.text


def test_the_report_shows_the_agreement_with_the_evaluations_judge(rlhf, recorded, home):
    run_dir = recorded.stage("evaluate").run_dir
    result = StageResult.model_validate_json((run_dir / "result.json").read_text())
    names = {"eval/agreement_reward_people": 0.75, "eval/alpha_reward_people": 0.5}
    changed = result.model_copy(
        update={
            "metrics": result.metrics | names,
            "counts": result.counts | dict.fromkeys(names, 64),
            "intervals": result.intervals | {name: (v - 0.1, v + 0.1) for name, v in names.items()},
        }
    )
    (run_dir / "result.json").write_text(changed.model_dump_json())
    found = report(recorded, shares=[], workspace=Workspace(home))
    (agreement,) = found.agreement
    assert agreement.raters == "reward model and people" and agreement.n == 64
    assert "Agreement with judge and people" in reward_page(found)
    code, out, _ = rlhf("reward-report", "latest")
    assert code == 0 and "Agreement with the judge and people" in out and "[0.65, 0.85]" in out
