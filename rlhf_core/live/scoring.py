"""Score both versions' replies to shadowed prompts with a reward model: a stage of its own."""

import json

from rlhf_core.config.stage_configs import LiveScoresStageConfig
from rlhf_core.data.render import render_prompt
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.modeling.ensemble import load_members
from rlhf_core.modeling.requirements import context_of
from rlhf_core.reward.scoring import member_scores, pair_sequences
from rlhf_core.rundir import Output, RunDir, StageSpec, write_atomically

FILE = "scores.jsonl"


def run(spec: StageSpec[LiveScoresStageConfig], run: RunDir) -> Output:
    """Write scores.jsonl: {"trace_id", "champion", "candidate"} per row of the input `pairs`.

    The input's rows are {"trace_id", "prompt", "champion", "candidate"}, replies as text. A row
    that the reward model cannot read is left out: the template refuses it, or it is too long.
    """
    config, path = spec.config, spec.inputs["reward"].path
    tokenizer, context = load_tokenizer(path), context_of(path)
    kept, sequences = [], []
    for row in map(json.loads, spec.inputs["pairs"].path.open(encoding="utf-8")):
        pair = {"prompt": row["prompt"], "chosen": row["champion"], "rejected": row["candidate"]}
        try:
            render_prompt(tokenizer, row["prompt"])
        except BadInput:
            continue
        both = pair_sequences(tokenizer, [pair])
        if context is None or max(map(len, both)) <= context:
            kept.append(row["trace_id"])
            sequences += both
    scored: list[dict] = []
    if kept:
        members = load_members(path, dtype=config.dtype, weights=config.frozen_dtype)
        scores_MN = member_scores(
            members, sequences, tokenizer.pad_token_id, config.micro_batch_tokens
        )
        both_of = scores_MN.mean(0).reshape(-1, 2).tolist()
        scored = [
            {"trace_id": trace, "champion": champion, "candidate": candidate}
            for trace, (champion, candidate) in zip(kept, both_of, strict=True)
        ]
    write_atomically(run.path / FILE, (json.dumps(row) + "\n" for row in scored))
    return Output(files={"scores": FILE})
