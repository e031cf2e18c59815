"""A reward model from labels of single replies, alone and beside comparisons."""

import math

import pyarrow.parquet as pq
import pytest
from stages import section_spec, splits_of

from rlhf_core.__main__ import run_stage
from rlhf_core.config import Reward
from rlhf_core.errors import BadInput
from rlhf_core.reward.labelled_replies import as_replies, require_both_labels
from rlhf_core.rundir import RunDir, StageResult, read_metrics

FEEDBACK = ("feedback_train", "feedback_heldout")
PAIRS = ("comparisons_train", "comparisons_heldout")
TINY = Reward(lr=3e-3, epochs=2, batch_size=32)


@pytest.fixture(scope="module")
def finished(tiny_model, tiny_splits, tmp_path_factory):
    """Run the stage on some splits; return result, folder and steps."""

    def run(*names: str) -> tuple[StageResult, RunDir, list[dict]]:
        folder = RunDir(tmp_path_factory.mktemp("reward") / "run")
        inputs = {"model": tiny_model} | splits_of(tiny_splits, *names)
        result = run_stage(section_spec("reward", TINY, inputs, train=True), folder)
        return result, folder, [line["metrics"] for line in read_metrics(folder.metrics_path)]

    return run


def test_labels_alone_teach_a_score_that_ranks_heldout_replies(finished):
    result, run, steps = finished(*FEEDBACK)
    found = result.metrics
    assert found["reward/auc"] > found["reward/auc_lower"] > 0.7
    assert found["reward/auc_over_length_lower"] > 0 and "reward/accuracy" not in found
    assert (found["reward/heldout_rows"], found["reward/heldout_rarer"]) == (64, 22)
    assert found["reward/label_calibration_error"] < 0.35
    assert steps[0]["reward/label_loss"] == steps[0]["reward/loss"]
    assert steps[-1]["reward/loss"] < steps[0]["reward/loss"] and "reward/margin" not in steps[0]
    labels = pq.read_table(run.path / result.files["label_items"]).to_pydict()
    assert sum(labels["up"]) == 22 and "items" not in result.files
    assert result.intervals["reward/auc"] == (found["reward/auc_lower"], found["reward/auc_upper"])


def test_labels_and_comparisons_teach_one_score_that_is_measured_on_both(finished):
    result, _, steps = finished(*PAIRS, *FEEDBACK)
    found = result.metrics
    assert found["reward/auc"] > 0.7 and found["reward/accuracy"] > 0.6
    assert (found["reward/heldout_pairs"], found["reward/heldout_rows"]) == (64, 64)
    assert {"reward/margin", "reward/label_loss", "reward/train_auc"} < set(steps[0])
    assert len(steps) == 2 * math.ceil((96 + 96) / 32)
    assert {"items", "label_items", "margin_histogram", "label_scores"} < set(result.files)


def test_a_comparison_is_a_reply_of_each_label():
    pair = {"prompt": ["p"], "chosen": "good", "rejected": "bad", "meta": {"n": 1}}
    up, down = as_replies([pair])
    assert up == {
        "prompt": ["p"],
        "response": "good",
        "other": "bad",
        "label": True,
        "meta": {"n": 1},
    }
    assert (down["response"], down["label"]) == ("bad", False)


def test_one_label_alone_is_refused():
    with pytest.raises(BadInput, match="found has 3 replies with thumbs up and 0 with thumbs down"):
        require_both_labels("found", 3, 0)
