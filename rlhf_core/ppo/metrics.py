"""Metrics of one PPO batch besides those of the update."""

import torch
from torch import Tensor

from rlhf_core.batching.collective import summed
from rlhf_core.config import PPO
from rlhf_core.objectives.importance import mismatch
from rlhf_core.objectives.losses import masked_sum
from rlhf_core.ppo.experience import Experience
from rlhf_core.ppo.rewards import length_penalty, overlong_penalty
from rlhf_core.ppo.rollout import Rollout


def step_metrics(experience: Experience, config: PPO) -> dict[str, float]:
    """Return all metrics of a rollout before the update, by declared name."""
    return (
        experience_metrics(experience)
        | _reward_metrics(experience, config)
        | _distance_metrics(experience, config)
    )


def experience_metrics(experience: Experience) -> dict[str, float]:
    """Return the metrics that every recipe has, of the policy before this step's update."""
    outputs, score_B = experience.outputs, experience.rewards.score_B
    mask_BR = experience.batch.response_mask_BR
    tokens, rows = int(mask_BR.sum()), len(mask_BR)
    kl = float(masked_sum(outputs.kl_BR, mask_BR))
    metrics = {
        "ppo/score_mean": float(score_B.mean()),
        "ppo/score_std": float(score_B.std(correction=0)),
        "ppo/reward_mean": float(experience.reward_B.mean()),
        "ppo/kl_per_response": kl / rows,
        "ppo/kl_per_token": kl / tokens,
        "ppo/beta": experience.beta,
        "ppo/response_tokens": tokens / rows,
        "ppo/eos_share": float(experience.ended_B.float().mean()),
        "ppo/entropy": _entropy(experience),
        "ppo/seconds_scoring": experience.seconds,
    }
    if outputs.entropy_BR is not None:  # the actor made a pass of its own
        metrics |= _gap(outputs.old_logprobs_BR, experience.sampler_logprobs_BR, mask_BR)
    if experience.reward_model.spread_B is not None:
        metrics["ppo/score_spread"] = float(experience.reward_model.spread_B.mean())
    return metrics


def _entropy(experience: Experience) -> float:
    """Return the actor's entropy, mean over response tokens, nats.

    Without a pass of its own it is estimated from the sampler's log-probabilities of the tokens
    that it drew: -mean log p, which has the entropy as its expectation.
    """
    mask_BR = experience.batch.response_mask_BR
    entropy_BR = experience.outputs.entropy_BR
    if entropy_BR is None:
        entropy_BR = -experience.sampler_logprobs_BR
    return float(masked_sum(entropy_BR, mask_BR)) / int(mask_BR.sum())


def _gap(trainer_BR: Tensor, sampler_BR: Tensor, mask_BR: Tensor) -> dict[str, float]:
    gap = mismatch(trainer_BR, sampler_BR, mask_BR)
    return {
        "ppo/sampler_logprob_diff": gap.mean_abs_diff,
        "ppo/sampler_logprob_diff_max": gap.max_abs_diff,
        "ppo/sampler_kl": gap.kl_k3,
        "ppo/sampler_effective_share": gap.effective_share,
    }


class SamplerGap:
    """The sampler's distance from the actor, where no pass before the update measures it.

    The rows are those of a step's first minibatch: their log-probabilities in the update are of the
    weights before any optimizer step.
    """

    def __init__(self, experience: Experience):
        self._mask_BR = experience.batch.response_mask_BR
        self._sampler_BR = experience.sampler_logprobs_BR
        self._trainer_BR = torch.zeros_like(self._sampler_BR)
        self._seen_B = torch.zeros_like(self._sampler_BR[:, 0])

    def add(self, rows: list[int], new_logprobs_BR: Tensor) -> None:
        """Keep the actor's log-probabilities of some rows, their padding columns trimmed."""
        self._trainer_BR[rows, : new_logprobs_BR.shape[1]] = new_logprobs_BR.float()
        self._seen_B[rows] = 1.0

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the rows that all ranks have seen; every rank takes part."""
        mask_BR = self._mask_BR & (summed(self._seen_B) > 0)[:, None]
        return _gap(summed(self._trainer_BR), self._sampler_BR, mask_BR)


def _reward_metrics(experience: Experience, config: PPO) -> dict[str, float]:
    options, rewards = config.reward, experience.rewards
    means = rewards.function_scores_BF.mean(0).tolist()
    metrics = {f"ppo/function_{place}_mean": mean for place, mean in enumerate(means, start=1)}
    if options.functions and options.model_weight and options.model_at == "last":
        metrics["ppo/model_score_mean"] = float(experience.reward_model.score_B.mean())
    if options.centre or options.scale:
        metrics |= {
            "ppo/score_running_mean": float(rewards.running.mean),
            "ppo/score_running_std": float(rewards.running.std()),
        }
    if options.length_penalty:
        metrics["ppo/length_penalty_mean"] = float(
            length_penalty(experience.batch.response_mask_BR, options).mean()
        )
    if config.overlong_buffer:
        metrics["ppo/overlong_penalty_mean"] = float(
            overlong_penalty(experience.batch.response_mask_BR, config).mean()
        )
    if config.overlong == "mask":
        metrics["ppo/overlong_masked"] = int((~experience.learned_B).sum())
    return metrics


def _distance_metrics(experience: Experience, config: PPO) -> dict[str, float]:
    """Return the actor's distances that options measure.

    From the sampler, as corrected for; from the reference, over the vocabulary.
    """
    mask_BR, exact_kl_BR = experience.batch.response_mask_BR, experience.outputs.exact_kl_BR
    rows, tokens = len(mask_BR), int(mask_BR.sum())
    metrics: dict[str, float] = {}
    if config.importance_cap is not None:
        importance_BR = experience.estimates.importance_BR
        capped_BR = (importance_BR >= config.importance_cap).float()
        metrics["ppo/importance_mean"] = float(masked_sum(importance_BR, mask_BR)) / tokens
        metrics["ppo/importance_capped"] = float(masked_sum(capped_BR, mask_BR)) / tokens
    if exact_kl_BR is not None:
        kl = float(masked_sum(exact_kl_BR, mask_BR))
        metrics |= {"ppo/kl_exact_per_response": kl / rows, "ppo/kl_exact_per_token": kl / tokens}
    return metrics


def speed_metrics(rollout: Rollout, config: PPO, *, seconds: float) -> dict[str, float]:
    """Return durations and speeds of one step.

    seconds: of scoring, update and sync.
    """
    tokens = sum(map(len, rollout.sequences))
    selection, generated = rollout.selection, rollout.response_tokens
    metrics: dict[str, float] = {}
    if selection:
        generated += selection.tokens_dropped
        metrics = {
            "ppo/sampling_rounds": selection.rounds,
            "ppo/groups": len(rollout.sequences) // config.group_size,
            "ppo/groups_dropped": selection.groups_dropped,
            "ppo/tokens_dropped": selection.tokens_dropped,
            "ppo/score_mean_sampled": selection.score_mean,
            "ppo/seconds_selection": selection.seconds,
        }
        seconds += selection.seconds
    metrics |= {
        "ppo/seconds_rollout": rollout.seconds,
        "ppo/rollout_tokens_per_second": generated / rollout.seconds,
    }
    waited = rollout.seconds
    if rollout.waited is not None:
        waited = metrics["ppo/seconds_waited"] = rollout.waited
    metrics["tokens_per_second"] = tokens / (waited + seconds)
    return metrics | ({"ppo/rollout_age": rollout.age} if config.max_rollout_age else {})
