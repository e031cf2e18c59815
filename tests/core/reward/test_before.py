"""The reward stage measures the reward model before training on later labels."""

from pathlib import Path

import pytest
import torch
from stages import section_spec, splits_of

from rlhf_core.__main__ import run_stage
from rlhf_core.config import LoRA, Reward
from rlhf_core.data.splits import load_split, save_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.models import inference, load_scalar, save_model
from rlhf_core.reward.scoring import pair_sequences, score_sequences
from rlhf_core.rundir import RunDir, StageResult, read_result
from rlhf_core.statistics.shift import shift

CONFIG = Reward(lr=3e-3, epochs=1, batch_size=16, max_train=16)


@pytest.fixture(scope="module")
def model_before(tiny_model, tmp_path_factory) -> Path:
    """A reward model with a random head."""
    folder = tmp_path_factory.mktemp("before") / "model"
    scalar = load_scalar(tiny_model, new_head=True, seed=7)
    save_model(scalar, load_tokenizer(tiny_model), folder)
    return folder


@pytest.fixture(scope="module")
def splits(tiny_splits, tmp_path_factory) -> dict[str, Path]:
    """Comparisons, of which the last 12 held-out ones are new."""
    folder = tmp_path_factory.mktemp("new")
    found = splits_of(tiny_splits, "comparisons_train", "comparisons_heldout")
    rows = list(load_split(found["comparisons_heldout"]))
    found["comparisons_heldout"] = folder / "comparisons_heldout.jsonl"
    found["new_comparisons_heldout"] = folder / "new_comparisons_heldout.jsonl"
    save_split(found["comparisons_heldout"], rows[:-12])
    save_split(found["new_comparisons_heldout"], rows[-12:])
    return found


@pytest.fixture
def run(tiny_model, splits, tmp_path, monkeypatch):
    """Run the reward stage in this process, with further inputs."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")

    def run(name: str, *, train: bool = True, config: Reward = CONFIG, **more: Path) -> StageResult:
        spec = section_spec("reward", config, {"model": tiny_model} | splits | more, train=train)
        run_stage(spec, RunDir(tmp_path / name))
        return read_result(tmp_path / name)

    return run


def scores(model: Path, split: Path) -> torch.Tensor:
    """Return the scores of chosen and rejected replies, (N, 2)."""
    sequences = pair_sequences(load_tokenizer(model), list(load_split(split)))
    forward = inference(load_scalar(model), dtype="float32")
    return score_sequences(forward, sequences, 0, 4096).view(-1, 2)


def test_its_accuracy_and_its_scores_on_new_pairs_are_those_of_plain_scoring(
    run, model_before, splits
):
    found = run("given", train=False, given=model_before, before=model_before).metrics
    new, old = (
        scores(model_before, splits[name])
        for name in ("new_comparisons_heldout", "comparisons_heldout")
    )
    right = float((new[:, 0] > new[:, 1]).double().mean())
    assert found["reward/accuracy_new_before"] == found["reward/accuracy_new"] == right
    assert found["reward/accuracy_new_gain"] == 0 and found["reward/heldout_pairs_new_before"] == 12
    far = shift(new.flatten().double().numpy(), old.flatten().double().numpy())
    assert found["reward/score_shift_new"] == pytest.approx(far.mean, rel=1e-4)
    assert found["reward/score_distance_new"] == pytest.approx(far.distance, rel=1e-4)
    assert found["reward/spread_ratio_new"] == pytest.approx(far.spread, rel=1e-4)


def test_only_new_pairs_that_it_has_not_seen_count(run, model_before, splits, tmp_path):
    rows = list(load_split(splits["new_comparisons_heldout"]))
    save_split(tmp_path / "unseen.jsonl", rows[3:])
    unseen = {"new_comparisons_heldout_unseen": tmp_path / "unseen.jsonl"}
    found = run("unseen", train=False, given=model_before, before=model_before, **unseen)
    new = scores(model_before, tmp_path / "unseen.jsonl")
    assert found.metrics["reward/heldout_pairs_new_before"] == 9
    assert found.metrics["reward/heldout_pairs_new"] == 12
    right = float((new[:, 0] > new[:, 1]).double().mean())
    assert found.metrics["reward/accuracy_new_before"] == right
    save_split(tmp_path / "unseen.jsonl", [])
    none = run("none", train=False, given=model_before, before=model_before, **unseen)
    assert none.metrics["reward/heldout_pairs_new_before"] == 0
    assert "reward/accuracy_new_before" not in none.metrics


def test_it_is_the_model_that_training_goes_on_from_and_changes_no_byte_of_training(
    run, model_before
):
    """With an adapter's dropout, training draws random numbers."""
    config = CONFIG.model_copy(update={"lora": LoRA(rank=2, dropout=0.2)})
    plain = run("plain", config=config)
    measured = run("before", config=config, before=model_before)
    assert "reward/accuracy_new_before" not in plain.metrics
    gain = measured.metrics["reward/accuracy_new_gain"]
    before = measured.metrics["reward/accuracy_new_before"]
    assert measured.metrics["reward/accuracy_new"] == pytest.approx(before + gain)
    assert measured.outputs["model"].digest == plain.outputs["model"].digest
    started = run("start", start=model_before)
    for name in ("accuracy_new_before", "score_distance_new", "heldout_pairs_new_before"):
        assert started.metrics[f"reward/{name}"] == measured.metrics[f"reward/{name}"]
