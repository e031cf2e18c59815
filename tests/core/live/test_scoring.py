"""The stage that scores shadowed requests, with a real reward model."""

import json

import pytest

from rlhf_core.config.stage_configs import LiveScoresStageConfig
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.live.scoring import FILE, run
from rlhf_core.modeling.models import inference, load_scalar, save_model
from rlhf_core.reward.scoring import pair_sequences, score_sequences
from rlhf_core.rundir import Artifact, RunDir, StageSpec


def test_each_pair_has_both_scores_and_what_is_too_long_is_left_out(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model)
    save_model(load_scalar(tiny_model, new_head=True, seed=3), tokenizer, tmp_path / "reward")
    asked = [{"role": "user", "content": "How do I paint a door?"}]
    rows = [
        {"trace_id": "tr-1", "prompt": asked, "champion": "Sand it first.", "candidate": ""},
        {"trace_id": "tr-2", "prompt": asked, "champion": "why " * 1200, "candidate": "So."},
        {"trace_id": "tr-3", "prompt": asked, "champion": "So.", "candidate": "Sand it."},
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    inputs = {"reward": Artifact.of(tmp_path / "reward"), "pairs": Artifact.of(pairs)}
    config = LiveScoresStageConfig(dtype="float32", frozen_dtype="float32")
    spec = StageSpec(stage="live-scores", seed=1, config=config, inputs=inputs, code="c")
    run(spec, RunDir(tmp_path / "run"))
    lines = (tmp_path / "run" / FILE).read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert [row["trace_id"] for row in found] == ["tr-1", "tr-3"]
    forward = inference(load_scalar(tmp_path / "reward"), dtype="float32")
    kept = [
        {"prompt": asked, "chosen": row["champion"], "rejected": row["candidate"]}
        for row in (rows[0], rows[2])
    ]
    expected = score_sequences(
        forward, pair_sequences(tokenizer, kept), tokenizer.pad_token_id, 4096
    )
    scores = [row[side] for row in found for side in ("champion", "candidate")]
    assert scores == pytest.approx(expected.tolist(), abs=1e-5)
