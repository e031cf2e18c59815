"""The trace: one real PPO batch by the stage's own functions, with every tensor, forward pass and
token written down.

It is the first batch in which the actor learns: step 1, or the first after `critic_warmup_steps`.
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from rlhf_core.batching.batch import Batch, select
from rlhf_core.batching.microbatches import microbatches
from rlhf_core.config import PPO
from rlhf_core.data.render import token_text
from rlhf_core.engine.base import Engine
from rlhf_core.objectives.losses import masked_sum, probability_ratio, tempered, token_logprobs
from rlhf_core.ppo.experience import Experience, with_values
from rlhf_core.ppo.metrics import step_metrics
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.stage import Trainer, build
from rlhf_core.ppo.state import LoopState
from rlhf_core.ppo.trace.meanings import AXES, QUANTITIES, STEPS
from rlhf_core.ppo.trace.observe import Seen, observed
from rlhf_core.ppo.trace.tensor_rows import (
    field_rows,
    list_rows,
    output_rows,
    part_rows,
    tensor_row,
    weights_row,
)
from rlhf_core.ppo.update import update
from rlhf_core.ranks import is_rank_zero, ranks
from rlhf_core.rundir import Output, RunDir, StageSpec, write_atomically

SETTINGS = (
    "rollout_batch",
    "minibatches",
    "epochs",
    "micro_batch_tokens",
    "advantage",
    "beta",
    "kl_estimator",
    "kl_in",
    "gamma",
    "gae_lambda",
    "whiten_advantages",
    "missing_eos_penalty",
    "clip",
    "policy_lr",
    "critic_lr",
    "critic",
    "reference",
    "reward_trunk",
)
SAME_MODEL = 1e-6  # nats: reference and actor differ by rounding only


@dataclasses.dataclass(frozen=True)
class Traced:
    """One batch and what became of it."""

    step: int
    rollout: Rollout
    experience: Experience
    ratio_before_BR: Tensor
    ratio_BR: Tensor
    metrics: dict[str, float]
    flow: list[dict]


def run(spec: StageSpec, run: RunDir) -> Output:
    """Trace one batch of the PPO stage with these inputs; config `rows`: how many responses to show
    token by token.
    """
    trainer = build(spec)
    traced = trace_batch(trainer, trainer.config.critic_warmup_steps + 1)
    if is_rank_zero():
        write_atomically(run.path / "trace.json", _json(summary(trainer, traced)))
        write_atomically(
            run.path / "tokens.json", _json(token_rows(trainer, traced, spec.config["rows"]))
        )
    return Output(files={"trace": "trace.json", "tokens": "tokens.json"})


def trace_batch(trainer: Trainer, step: int) -> Traced:
    """One PPO batch: rollout, experience, update, new weights into the sampler; the ratio before
    and after the update.
    """
    config, flow = trainer.config, []
    modules = {name: engine.module for name, engine in trainer.engines.items()}
    modules |= {"sampler": trainer.sampler.model} if trainer.sampler.model is not None else {}
    with observed(modules) as seen:
        with _step(flow, seen, "rollout") as tensors:
            rollout = trainer.roll_out(step)[step]
            tensors += list_rows(rollout)
        with _step(flow, seen, "experience") as tensors:
            experience = trainer.score(rollout, LoopState.first(config))
            tensors += (
                field_rows(experience.batch)
                + field_rows(experience)
                + [tensor_row("kl_BR", experience.kl_BR)]
            )
            tensors += [tensor_row("reward_B", experience.reward_B)]
        with _step(flow, seen, "ratio before") as tensors:
            ratio_before_BR = _ratio(trainer.actor, experience, config)
            tensors += [tensor_row("ratio_BR", ratio_before_BR)]
        with _step(flow, seen, "update") as tensors:
            metrics = update(
                trainer.actor, trainer.critic, experience, config, step=step, seed=trainer.seed
            )
            tensors += part_rows(seen.passes)
        with _step(flow, seen, "ratio after") as tensors:
            ratio_BR = _ratio(trainer.actor, experience, config)
            tensors += [tensor_row("ratio_BR", ratio_BR)]
        with _step(flow, seen, "sync") as tensors:
            trainer.sync()
            tensors += [weights_row(trainer.actor)]
    return Traced(
        step,
        rollout,
        experience,
        ratio_before_BR,
        ratio_BR,
        step_metrics(experience, config) | metrics,
        flow,
    )


@torch.no_grad()
def actor_logprobs(actor: Engine, batch: Batch, config: PPO) -> Tensor:
    """The actor's present log-probability of each response token, (B, R), 0 at padding; as
    make_experience computes it.
    """
    logprobs_BR = torch.zeros(batch.response_mask_BR.shape, device=batch.ids_BL.device)
    for rows in microbatches(batch.sizes, config.micro_batch_tokens):
        part = select(batch, rows)
        new_BR = token_logprobs(
            tempered(with_values(actor.infer(part))[0], config.sampling.temperature),
            part.response_ids_BR,
        )
        logprobs_BR[rows, : new_BR.shape[1]] = new_BR.float().masked_fill(
            ~part.response_mask_BR, 0.0
        )
    return logprobs_BR


def _ratio(actor: Engine, experience: Experience, config: PPO) -> Tensor:
    new_logprobs_BR = actor_logprobs(actor, experience.batch, config)
    return probability_ratio(
        new_logprobs_BR, experience.old_logprobs_BR, experience.batch.response_mask_BR
    )


@contextlib.contextmanager
def _step(flow: list[dict], seen: Seen, name: str) -> Iterator[list[dict]]:
    """A step of the flow; the caller adds tensors, the models' outputs come first."""
    title, where = STEPS[name]
    started, tensors = time.monotonic(), []
    yield tensors
    seconds, found = time.monotonic() - started, seen.taken()
    counts: dict[str, int] = {}
    for one in found.passes:
        counts[one.model] = counts.get(one.model, 0) + 1
    flow.append(
        {
            "name": name,
            "title": title,
            "where": where,
            "seconds": seconds,
            "forward_passes": counts,
            "collectives": dict(found.calls),
            "bytes_between_ranks": round(sum(found.sent.values())),
            "tensors": [*output_rows(found.passes), *tensors],
        }
    )


# What is written


def summary(trainer: Trainer, traced: Traced) -> dict:
    """trace.json: the flow, the settings that the numbers depend on, and what must be said of them."""
    config, flow = trainer.config, traced.flow
    totals: dict[str, int] = {}
    for step in flow:
        for model, count in step["forward_passes"].items():
            totals[model] = totals.get(model, 0) + count
    mask_BR = traced.experience.batch.response_mask_BR
    return {
        "step": traced.step,
        "ranks": ranks(),
        "steps": flow,
        "axes": AXES,
        "forward_passes": totals,
        "bytes_between_ranks": sum(step["bytes_between_ranks"] for step in flow),
        "seconds": sum(step["seconds"] for step in flow),
        "ratio_before_max_distance_from_1": float(
            (traced.ratio_before_BR - 1)[mask_BR].abs().max()
        ),
        "metrics": traced.metrics,
        "settings": {name: getattr(config, name) for name in SETTINGS} | _reward_settings(config),
        "notes": _notes(config, traced),
    }


def _reward_settings(config: PPO) -> dict:
    """The keys of ppo.reward that differ from their default."""
    return {
        f"reward.{name}": value
        for name, value in config.reward.model_dump(mode="json", exclude_defaults=True).items()
    }


def _notes(config: PPO, traced: Traced) -> list[str]:
    notes = []
    if not config.has_critic:
        notes.append(
            f"ppo.advantage is {config.advantage!r}: there is no critic, so there are no values; "
            "the returns are the advantages before whitening, and nothing learns them."
        )
    notes += _layout_notes(config)
    if config.critic_warmup_steps:
        notes.append(
            f"In the PPO stage only the critic learns in the first {config.critic_warmup_steps}"
            f" steps. This is the batch of step {traced.step}, with a critic that has not had those"
            " steps."
        )
    if float(traced.experience.kl_BR.abs().max()) < SAME_MODEL:
        notes.append(
            "The actor is still the reference: every KL is 0 and takes nothing off the rewards."
        )
    if config.kl_in == "loss":
        notes.append(
            "ppo.kl_in is 'loss': the KL is a term of the policy loss, and no part of the reward."
        )
    if not config.reward.model_weight:
        notes.append(
            "ppo.reward.model_weight is 0: there is no reward model, the scores are those of the"
            " reward functions."
        )
    return notes


def _layout_notes(config: PPO) -> list[str]:
    said = {
        f"ppo.lora: only adapters of rank {config.lora.rank if config.lora else 0} learn": (
            config.lora
        ),
        "ppo.critic is 'shared': a head on the actor's trunk gives the values, in the actor's pass": (
            config.shares_critic
        ),
        "ppo.reference is 'adapter-off': the reference is the actor without its adapter": (
            config.reference == "adapter-off"
        ),
        "ppo.reward_trunk is 'reference': the reward model is an adapter on the reference": (
            config.reward_trunk == "reference"
        ),
    }
    return [f"{note}." for note, holds in said.items() if holds]


def token_rows(trainer: Trainer, traced: Traced, count: int) -> dict:
    """tokens.json: `count` responses with every quantity beside each token; those of options that
    are off are left out.
    """
    experience, tokenizer, config = traced.experience, trainer.tokenizer, trainer.config
    columns = {
        "logprob": experience.old_logprobs_BR,
        "ref_logprob": experience.ref_logprobs_BR,
        "kl": experience.kl_BR,
        **({"exact_kl": experience.exact_kl_BR} if config.kl_exact else {}),
        **({"process": experience.process_BR} if config.reward.has_process else {}),
        "reward": experience.rewards_BR,
        "value": experience.values_BR if config.has_critic else None,
        "advantage": experience.advantages_BR,
        "return": experience.returns_BR,
        **({"importance": experience.importance_BR} if config.importance_cap is not None else {}),
        "ratio": traced.ratio_BR,
    }
    rows = []
    for row, why in chosen_rows(experience, count).items():
        sequence = traced.rollout.sequences[row]
        R = len(sequence.response)
        rows.append(
            {
                "row": row,
                "why": why,
                "prompt": tokenizer.decode(sequence.prompt),
                "prompt_tokens": len(sequence.prompt),
                "ended": bool(experience.ended_B[row]),
                "score": float(experience.score_B[row]),
                "reward": float(experience.reward_B[row]),
                "kl": float(
                    masked_sum(experience.kl_BR[row], experience.batch.response_mask_BR[row])
                ),
                "ids": sequence.response,
                "tokens": [token_text(tokenizer, token) for token in sequence.response],
                "values": {
                    name: None if column is None else column[row, :R].tolist()
                    for name, column in columns.items()
                },
            }
        )
    words = {
        name: dict(zip(("title", "meaning", "unit"), QUANTITIES[name], strict=True))
        for name in columns
    }
    return {"quantities": words, "rows": rows, "of": len(traced.rollout.sequences)}


def chosen_rows(experience: Experience, count: int) -> dict[int, list[str]]:
    """Row -> why: the longest, the shortest, the highest and the lowest score; then the first
    others, up to `count`.
    """
    lengths, scores = (
        experience.batch.response_mask_BR.sum(-1).tolist(),
        experience.score_B.tolist(),
    )
    found: dict[int, list[str]] = {}
    for why, values, best in (
        ("longest", lengths, max),
        ("shortest", lengths, min),
        ("highest score", scores, max),
        ("lowest score", scores, min),
    ):
        found.setdefault(values.index(best(values)), []).append(why)
    for row in range(len(scores)):
        if len(found) < count:
            found.setdefault(row, [])
    return dict(list(found.items())[:count])


def _json(value: dict) -> str:
    return json.dumps(_plain(value), indent=1, allow_nan=False)


def _plain(value: object) -> object:
    """Non-finite numbers as text, which JSON has no number for: a trace must show them."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
