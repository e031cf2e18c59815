"""The files of a trace: trace.json and tokens.json of one batch."""

import json
import math
from collections import Counter
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.config import PPO
from rlhf_core.data.render import token_text
from rlhf_core.objectives.losses import masked_sum
from rlhf_core.ppo.experience import Experience
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.trace.meanings import AXES, QUANTITIES
from rlhf_core.ranks import ranks

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


@dataclass(frozen=True)
class Traced:
    """One traced batch: its rollout, experience, ratios and metrics, and the steps of the flow."""

    step: int
    rollout: Rollout
    experience: Experience
    ratio_before_BR: Tensor
    ratio_BR: Tensor
    metrics: dict[str, float]
    flow: list[dict]


def summary(config: PPO, traced: Traced) -> dict:
    """Return trace.json: the flow, the settings that the numbers depend on, and notes on them."""
    flow = traced.flow
    totals: Counter[str] = Counter()
    for step in flow:
        totals.update(step["forward_passes"])
    mask_BR = traced.experience.batch.response_mask_BR
    return {
        "step": traced.step,
        "ranks": ranks(),
        "steps": flow,
        "axes": AXES,
        "forward_passes": dict(totals),
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
    """Return the keys of ppo.reward that differ from their default."""
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
    notes += layout_notes(config)
    if config.critic_warmup_steps:
        notes.append(
            f"In the PPO stage only the critic learns in the first {config.critic_warmup_steps}"
            f" steps. This is the batch of step {traced.step}, with a critic that has not had those"
            " steps."
        )
    if float(traced.experience.outputs.kl_BR.abs().max()) < SAME_MODEL:
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


def layout_notes(config: PPO) -> list[str]:
    """Return a note for each setting by which models share weights."""
    notes = []
    if config.lora:
        notes.append(f"ppo.lora: only adapters of rank {config.lora.rank} learn.")
    if config.shares_critic:
        notes.append(
            "ppo.critic is 'shared': a head on the actor's trunk gives the values, in the actor's"
            " pass."
        )
    if config.reference == "adapter-off":
        notes.append(
            "ppo.reference is 'adapter-off': the reference is the actor without its adapter."
        )
    if config.reward_trunk == "reference":
        notes.append(
            "ppo.reward_trunk is 'reference': the reward model is an adapter on the reference."
        )
    return notes


def token_rows(tokenizer: PreTrainedTokenizerBase, config: PPO, traced: Traced, count: int) -> dict:
    """Return tokens.json: `count` responses with every quantity beside each token."""
    columns = _columns(config, traced)
    words = {
        name: dict(zip(("title", "meaning", "unit"), QUANTITIES[name], strict=True))
        for name in columns
    }
    rows = [
        _response(tokenizer, traced, row, why, columns)
        for row, why in chosen_rows(traced.experience, count).items()
    ]
    return {"quantities": words, "rows": rows, "of": len(traced.rollout.sequences)}


def _columns(config: PPO, traced: Traced) -> dict[str, Tensor | None]:
    """Return each quantity of the tokens, (B, R); those of options that are off are left out."""
    outputs, estimates = traced.experience.outputs, traced.experience.estimates
    process_BR = traced.experience.rewards.process_BR
    return {
        "logprob": outputs.old_logprobs_BR,
        "ref_logprob": outputs.ref_logprobs_BR,
        "kl": outputs.kl_BR,
        **({"exact_kl": outputs.exact_kl_BR} if config.kl_exact else {}),
        **({"process": process_BR} if config.reward.has_process else {}),
        "reward": estimates.rewards_BR,
        "value": outputs.values_BR if config.has_critic else None,
        "advantage": estimates.advantages_BR,
        "return": estimates.returns_BR,
        **({"importance": estimates.importance_BR} if config.importance_cap is not None else {}),
        "ratio": traced.ratio_BR,
    }


def _response(
    tokenizer: PreTrainedTokenizerBase,
    traced: Traced,
    row: int,
    why: list[str],
    columns: dict[str, Tensor | None],
) -> dict:
    experience, sequence = traced.experience, traced.rollout.sequences[row]
    R, mask_R = len(sequence.response), experience.batch.response_mask_BR[row]
    return {
        "row": row,
        "why": why,
        "prompt": tokenizer.decode(sequence.prompt),
        "prompt_tokens": len(sequence.prompt),
        "ended": bool(experience.ended_B[row]),
        "score": float(experience.rewards.score_B[row]),
        "reward": float(experience.reward_B[row]),
        "kl": float(masked_sum(experience.outputs.kl_BR[row], mask_R)),
        "ids": sequence.response,
        "tokens": [token_text(tokenizer, token) for token in sequence.response],
        "values": {
            name: None if column is None else column[row, :R].tolist()
            for name, column in columns.items()
        },
    }


def chosen_rows(experience: Experience, count: int) -> dict[int, list[str]]:
    """Return up to `count` rows, each with the reasons why it is shown.

    The longest, the shortest, the highest and the lowest score; then the first of the others.
    """
    lengths = experience.batch.response_mask_BR.sum(-1).tolist()
    scores = experience.rewards.score_B.tolist()
    extremes = {
        "longest": lengths.index(max(lengths)),
        "shortest": lengths.index(min(lengths)),
        "highest score": scores.index(max(scores)),
        "lowest score": scores.index(min(scores)),
    }
    found: dict[int, list[str]] = {}
    for why, row in extremes.items():
        found.setdefault(row, []).append(why)
    for row in range(len(scores)):
        if len(found) < count:
            found.setdefault(row, [])
    return dict(list(found.items())[:count])


def to_json(value: dict) -> str:
    """Return the value as JSON; numbers that are not finite become text."""
    return json.dumps(_finite_or_text(value), indent=1, allow_nan=False)


def _finite_or_text(value: object) -> object:
    """Replace non-finite numbers by text: JSON has none for them, and a trace must show them."""
    if isinstance(value, dict):
        return {key: _finite_or_text(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_text(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
