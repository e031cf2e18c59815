"""Candidates for labelling, made by real models."""

import json
import math

import pytest

from rlhf_core.config import Evaluate, Sampling
from rlhf_core.config.stage_configs import LabelPairsStageConfig
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.labels.candidates import LIVE
from rlhf_core.labels.stage import FILE, run
from rlhf_core.modeling.models import inference, load_scalar, save_model
from rlhf_core.reward.scoring import pair_sequences, score_sequences
from rlhf_core.rundir import Artifact, RunDir, StageSpec

CONVERSATION = [
    {"role": "user", "content": "Is it so?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And why?"},
]


@pytest.fixture(scope="module")
def made(tiny_model, tiny_splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    tokenizer = load_tokenizer(tiny_model)
    save_model(load_scalar(tiny_model, new_head=True, seed=3), tokenizer, folder / "reward")
    paths = {
        "policy": tiny_model,
        "reward": folder / "reward",
        "prompts_train": tiny_splits / "prompts_train.jsonl",
        "comparisons_train": tiny_splits / "comparisons_train.jsonl",
        LIVE: folder / "live.jsonl",
    }
    kept = [
        {"prompt": prompt, "reply": "It is so.", "trace_id": f"tr-{n}", "version": "2"}
        for n, prompt in enumerate((CONVERSATION, [{"role": "user", "content": "why " * 1200}]))
    ]
    paths[LIVE].write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    config = LabelPairsStageConfig(
        evaluate=Evaluate(sampling=Sampling(engine="transformers", max_new_tokens=6)),
        prompts=6,
        comparisons=9,
        dtype="float32",
    )
    inputs = {name: Artifact.of(path) for name, path in paths.items()}
    spec = StageSpec(stage="label-pairs", seed=1, config=config, inputs=inputs, code="c")
    run(spec, RunDir(folder / "run"))
    lines = (folder / "run" / FILE).read_text(encoding="utf-8").splitlines()
    return paths, [json.loads(line) for line in lines]


def test_fresh_pairs_answer_training_prompts_with_two_replies(made):
    paths, rows = made
    fresh = [row for row in rows if row["kind"] == "fresh"]
    asked = [row["prompt"] for row in load_split(paths["prompts_train"])]
    assert 0 < len(fresh) <= 6 and all(row["prompt"] in asked for row in fresh)
    assert all(row["reply_a"] != row["reply_b"] for row in fresh)
    for row in fresh:
        expected = 1 / (1 + math.exp(-row["margin"]))
        assert row["preferences"] == {"reward_1": pytest.approx(expected)}


def test_a_live_reply_stands_beside_a_new_one_to_the_whole_conversation(made):
    """The prompt that is longer than the policy's context is left out."""
    (row,) = (row for row in made[1] if row["kind"] == "live")
    assert row["prompt"] == CONVERSATION and row["live"] == {"trace_id": "tr-0", "version": "2"}
    assert row["reply_a"] == "It is so." != row["reply_b"]
    expected = 1 / (1 + math.exp(-row["margin"]))
    assert row["preferences"] == {"reward_1": pytest.approx(expected)}


def test_training_pairs_have_the_reward_models_margin_and_what_people_prefer(made):
    paths, rows = made
    training = [row for row in rows if row["kind"] == "training"]
    known = {(row["chosen"], row["rejected"]) for row in load_split(paths["comparisons_train"])}
    assert len(training) == 9
    assert {(row["reply_a"], row["reply_b"]) for row in training} <= known
    tokenizer = load_tokenizer(paths["reward"])
    pairs = [
        {"prompt": row["prompt"], "chosen": row["reply_a"], "rejected": row["reply_b"]}
        for row in training
    ]
    forward = inference(load_scalar(paths["reward"]), dtype="float32")
    scores_N = score_sequences(
        forward, pair_sequences(tokenizer, pairs), tokenizer.pad_token_id, 4096
    )
    margins_N = scores_N[0::2] - scores_N[1::2]
    assert [row["margin"] for row in training] == pytest.approx(margins_N.tolist(), abs=1e-5)
    assert all("people" in row["preferences"] for row in training)


def test_with_packing_the_reward_model_reads_packed_rows_to_the_same_margins(
    made, tmp_path, capsys
):
    paths, rows = made
    config = LabelPairsStageConfig(
        evaluate=Evaluate(packing=True), prompts=0, comparisons=9, dtype="float32"
    )
    inputs = {name: Artifact.of(path) for name, path in paths.items() if name != LIVE}
    run(
        StageSpec(stage="label-pairs", seed=1, config=config, inputs=inputs, code="c"),
        RunDir(tmp_path),
    )
    assert "packing: " in capsys.readouterr().out
    found = [json.loads(line) for line in (tmp_path / FILE).read_text("utf-8").splitlines()]
    training = [row for row in rows if row["kind"] == "training"]
    assert [row["reply_a"] for row in found] == [row["reply_a"] for row in training]
    margins = [row["margin"] for row in training]
    assert [row["margin"] for row in found] == pytest.approx(margins, abs=1e-5)
