"""The trace: one real PPO batch by the stage's own functions, with all its tensors and passes.

It is the first batch in which the actor learns: step 1, or the first after `critic_warmup_steps`.
"""

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rlhf_core.batching.batch import Batch, select
from rlhf_core.batching.microbatches import microbatches
from rlhf_core.config import PPO
from rlhf_core.config.stage_configs import TraceStageConfig
from rlhf_core.engine.base import Engine
from rlhf_core.modeling.token_scores import TokenQuery
from rlhf_core.objectives.losses import probability_ratio
from rlhf_core.ppo.experience import Experience
from rlhf_core.ppo.metrics import step_metrics
from rlhf_core.ppo.scoring import shared_prompts
from rlhf_core.ppo.state import LoopState
from rlhf_core.ppo.trace.meanings import STEPS
from rlhf_core.ppo.trace.observe import Seen, observed
from rlhf_core.ppo.trace.report import Traced, summary, to_json, token_rows
from rlhf_core.ppo.trace.tensor_rows import (
    batch_rows,
    experience_rows,
    list_rows,
    output_rows,
    tensor_row,
    update_rows,
    weights_row,
)
from rlhf_core.ppo.trainer import Trainer, build
from rlhf_core.ppo.update import update
from rlhf_core.ranks import is_rank_zero
from rlhf_core.rundir import Output, RunDir, StageSpec, write_atomically


def run(spec: StageSpec[TraceStageConfig], run: RunDir) -> Output:
    """Trace one batch of the PPO stage with these inputs.

    config `rows`: how many responses to show token by token.
    """
    trainer = build(spec, run)
    traced = trace_batch(trainer, trainer.config.critic_warmup_steps + 1)
    if is_rank_zero():
        tokens = token_rows(trainer.tokenizer, trainer.config, traced, spec.config.rows)
        write_atomically(run.path / "trace.json", to_json(summary(trainer.config, traced)))
        write_atomically(run.path / "tokens.json", to_json(tokens))
    return Output(files={"trace": "trace.json", "tokens": "tokens.json"})


def trace_batch(trainer: Trainer, step: int) -> Traced:
    """Run one PPO batch, and measure the ratio before and after the update."""
    config, models = trainer.config, trainer.models
    flow: list[dict] = []
    modules: dict[str, nn.Module] = {name: engine.module for name, engine in models.engines.items()}
    if trainer.sampler.model is not None:
        modules["sampler"] = trainer.sampler.model
    with observed(modules) as seen:
        with _step(flow, seen, "rollout") as tensors:
            rollout = trainer.roll_out(step, (step - 1) * trainer.groups)[step]
            tensors += list_rows(rollout)
        with _step(flow, seen, "experience") as tensors:
            experience = trainer.score(rollout, LoopState.first(config))
            tensors += batch_rows(experience.batch) + experience_rows(experience)
        with _step(flow, seen, "ratio before") as tensors:
            ratio_before_BR = _ratio(models.actor, experience, config)
            tensors += [tensor_row("ratio_BR", ratio_before_BR)]
        with _step(flow, seen, "update") as tensors:
            metrics = update(models, experience, config, step=step, seed=trainer.seed)
            tensors += update_rows(seen.passes)
        with _step(flow, seen, "ratio after") as tensors:
            ratio_BR = _ratio(models.actor, experience, config)
            tensors += [tensor_row("ratio_BR", ratio_BR)]
        with _step(flow, seen, "sync") as tensors:
            trainer.sync()
            tensors += [weights_row(models.actor)]
    metrics = step_metrics(experience, config) | metrics
    return Traced(step, rollout, experience, ratio_before_BR, ratio_BR, metrics, flow)


@torch.no_grad()
def actor_logprobs(actor: Engine, batch: Batch, config: PPO) -> Tensor:
    """Return the actor's present log-probability of each response token, (B, R), 0 at padding.

    Computed as in scoring.score_batch.
    """
    logprobs_BR = torch.zeros(batch.response_mask_BR.shape, device=batch.ids_BL.device)
    budget, prompts = config.micro_batch_tokens, shared_prompts(batch, config)
    for rows in microbatches(batch.sizes, budget, packing=config.packing, prompts=prompts):
        part = select(batch, rows)
        query = TokenQuery(config.sampling.temperature)
        new_BR = actor.infer(part, query=query).logprobs_BR.float()
        logprobs_BR[rows, : new_BR.shape[1]] = new_BR.masked_fill(~part.response_mask_BR, 0.0)
    return logprobs_BR


def _ratio(actor: Engine, experience: Experience, config: PPO) -> Tensor:
    new_logprobs_BR = actor_logprobs(actor, experience.batch, config)
    return probability_ratio(
        new_logprobs_BR, experience.outputs.old_logprobs_BR, experience.batch.response_mask_BR
    )


@contextlib.contextmanager
def _step(flow: list[dict], seen: Seen, name: str) -> Iterator[list[dict]]:
    """Record a step of the flow: the models' outputs, then the tensors that the caller adds."""
    title, where = STEPS[name]
    started = time.monotonic()
    tensors: list[dict] = []
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
