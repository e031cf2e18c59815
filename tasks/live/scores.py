"""Paired scores of shadowed requests, by the reward model that is registered with the champion."""

import json
from collections.abc import Sequence
from pathlib import Path

from rlhf_core.config.stage_configs import LiveScoresStageConfig
from rlhf_core.data.splits import prompt_key
from rlhf_core.digest import code_digest
from rlhf_core.errors import RLHFError
from rlhf_core.live.paired import PairedScores, is_shadowed
from rlhf_core.rundir import Artifact, StageSpec
from rlhf_core.stage_catalogue import LIVE_SCORES
from tasks.execution.stage_process import run_stage
from tasks.live.replies import LiveReply
from tasks.live.shadow import Shadowing, shadow_replies
from tasks.promotion.aliases import RegistryAliases
from tasks.records.private_file import write_private
from tasks.registry import versions
from tasks.registry.fetching import fetch
from tasks.registry.versions import CHAMPION

PAIRS = "pairs.jsonl"  # the texts while they are scored, in the live model's folder


def paired_scores(
    registry: RegistryAliases, both: tuple[str, str], replies: Sequence[LiveReply], how: Shadowing
) -> PairedScores:
    """Return the scores of both versions on a share of the champion's kept requests.

    both: versions of champion and candidate. Where there is no reward model, or it cannot score,
    the note says so, and there are no scores.
    """
    asked = [reply for reply in replies if is_shadowed(reply.trace_id, how.share)]
    asked = [reply for reply in asked if reply.is_conversation]
    try:
        reward = _reward_model(registry)
        sides = _sides(registry, both, asked, how)
        pairs = [reply for reply in asked if all(reply.trace_id in side for side in sides)]
        scored = _scored(registry, reward, pairs, sides) if pairs else {}
    except RLHFError as error:
        return PairedScores(note=str(error).splitlines()[0])
    kept = [reply for reply in pairs if reply.trace_id in scored]
    return PairedScores(
        champion=[scored[reply.trace_id][0] for reply in kept],
        candidate=[scored[reply.trace_id][1] for reply in kept],
        prompts=[prompt_key(reply.messages) for reply in kept],
        note=_missing(len(asked) - len(pairs), len(pairs) - len(kept)),
    )


def _missing(replies: int, scores: int) -> str:
    notes = [f"{replies} shadowed requests have no reply"] if replies else []
    notes += [f"{scores} are too long for the reward model"] if scores else []
    return ", ".join(notes)


def _reward_model(registry: RegistryAliases) -> Artifact:
    """Return the champion's reward model. Raises RLHFError where there is none."""
    model = registry.model("reward")
    number = versions.aliases(registry.client, model).get(CHAMPION)
    if number is None:
        raise RLHFError(f"no reward model is registered with the champion ({model}@{CHAMPION})")
    return fetch(registry.workspace, registry.require_version("reward", number))


def _sides(
    registry: RegistryAliases, both: tuple[str, str], asked: Sequence[LiveReply], how: Shadowing
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the replies of champion and candidate, by trace.

    With a redaction hook the champion answers the kept prompt too: it was asked another one.
    """
    ours = {reply.trace_id: reply.reply for reply in asked}
    if how.redact is not None:
        ours = shadow_replies(registry, both[0], asked, how)
    return ours, shadow_replies(registry, both[1], asked, how)


def _scored(
    registry: RegistryAliases,
    reward: Artifact,
    pairs: Sequence[LiveReply],
    sides: tuple[dict[str, str], dict[str, str]],
) -> dict[str, tuple[float, float]]:
    """Return both scores by trace, from a stage process; the same pairs are scored once.

    The texts are in a file of the live model's folder while the process runs.
    """
    rows = [
        {
            "trace_id": reply.trace_id,
            "prompt": reply.messages,
            "champion": sides[0][reply.trace_id],
            "candidate": sides[1][reply.trace_id],
        }
        for reply in sorted(pairs, key=lambda reply: reply.trace_id)
    ]
    file = registry.workspace.home / "live" / registry.name / PAIRS
    file.parent.mkdir(parents=True, exist_ok=True)
    write_private(file, rows)
    try:
        inputs = {"reward": reward, "pairs": Artifact.of(file)}
        spec: StageSpec[LiveScoresStageConfig] = StageSpec(
            stage=LIVE_SCORES.name,
            seed=1,
            config=_config(reward.path),
            inputs=inputs,
            code=code_digest(),
        )
        done = run_stage(spec, registry.workspace.run_dir(spec))
    finally:
        file.unlink()
    scores = done.run_dir / done.result.files["scores"]
    found = [json.loads(line) for line in scores.open(encoding="utf-8")]
    return {row["trace_id"]: (row["champion"], row["candidate"]) for row in found}


def _config(folder: Path) -> LiveScoresStageConfig:
    """Return the configuration: in bfloat16 where the model's files are, else in float32."""
    file = folder / "config.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    is_half = "bfloat16" in (known.get("dtype"), known.get("torch_dtype"))
    dtype = "bfloat16" if is_half else "float32"
    return LiveScoresStageConfig(dtype=dtype, frozen_dtype=dtype)
