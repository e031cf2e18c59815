"""What is logged of a rollout before the update: always, and what options measure."""

from rlhf_core.config import PPO
from rlhf_core.objectives.losses import masked_sum
from rlhf_core.ppo.experience import Experience, experience_metrics
from rlhf_core.ppo.rewards import length_penalty


def step_metrics(experience: Experience, config: PPO) -> dict[str, float]:
    """All of them, by declared name."""
    return (
        experience_metrics(experience)
        | _reward_metrics(experience, config)
        | _distance_metrics(experience, config)
    )


def _reward_metrics(x: Experience, config: PPO) -> dict[str, float]:
    options, means = config.reward, x.function_scores_BF.mean(0).tolist()
    metrics = {f"ppo/function_{place}_mean": mean for place, mean in enumerate(means, start=1)}
    if options.functions and options.model_weight and options.model_at == "last":
        metrics["ppo/model_score_mean"] = float(x.model_score_B.mean())
    if options.centre or options.scale:
        metrics |= {
            "ppo/score_running_mean": float(x.running.mean),
            "ppo/score_running_std": float(x.running.std()),
        }
    if options.length_penalty:
        metrics["ppo/length_penalty_mean"] = float(
            length_penalty(x.batch.response_mask_BR, options).mean()
        )
    return metrics


def _distance_metrics(x: Experience, config: PPO) -> dict[str, float]:
    """Of the actor from the sampler, as corrected for, and from the reference, over the vocabulary."""
    mask_BR, metrics = x.batch.response_mask_BR, {}
    rows, tokens = len(mask_BR), int(mask_BR.sum())
    if config.importance_cap is not None:
        capped_BR = (x.importance_BR >= config.importance_cap).float()
        metrics["ppo/importance_mean"] = float(masked_sum(x.importance_BR, mask_BR)) / tokens
        metrics["ppo/importance_capped"] = float(masked_sum(capped_BR, mask_BR)) / tokens
    if x.exact_kl_BR is not None:
        kl = float(masked_sum(x.exact_kl_BR, mask_BR))
        metrics |= {"ppo/kl_exact_per_response": kl / rows, "ppo/kl_exact_per_token": kl / tokens}
    return metrics
