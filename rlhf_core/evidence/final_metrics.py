"""The declared metrics that a stage's result has, and those of them with a recorded interval.

Other declared metrics are logged at the steps of a stage alone, so that no gate can see them.
"""

from collections.abc import Iterable

from rlhf_core.evidence.item_metrics import ITEM_METRICS
from rlhf_core.metrics import METRICS

# logged at each step, and in no result
_OF_STEPS = {
    "sft": "loss router_loss lr grad_norm",
    "reward": (
        "loss centring train_accuracy margin label_loss train_auc router_loss lr grad_norm member"
    ),
    "kto": "loss reference_kl train_auc margin up_logratio down_logratio router_loss lr grad_norm",
    "dpo": "loss train_accuracy margin chosen_logratio rejected_logratio router_loss lr grad_norm",
}
# means over the last steps of PPO, and the policy that it gives
_OF_PPO = (
    "score_mean reward_mean kl_per_response kl_per_token response_tokens eos_share entropy"
    " score_mean_sampled kept_step"
)
_STEPS = frozenset(
    f"{stage}/{name}" for stage, names in _OF_STEPS.items() for name in names.split()
)
_PPO = frozenset(f"ppo/{name}" for name in _OF_PPO.split())
_FROM_CHECKS = ("ppo/onpolicy_", "ppo/eval_")
# beside the metrics that have the ends of their interval as metrics of their own
_WITH_INTERVAL = frozenset(
    (
        "sft/heldout_improvement",
        "eval/alignment_tax",
        "eval/judge_position_bias",
        "eval/judge_position_bias_vs_champion",
        "eval/prompt_retrieval",
        "eval/prompt_retrieval_sft",
        "eval/reward_up_independent_down",
        "ppo/onpolicy_accuracy",
        "ppo/onpolicy_accuracy_start",
        "ppo/onpolicy_fall",
    )
)


def is_final(metric: str) -> bool:
    """Return True if a stage's result may have the metric."""
    if metric.startswith("ppo/"):
        return metric in _PPO or metric.startswith(_FROM_CHECKS)
    return metric not in _STEPS


def has_recorded_interval(metric: str) -> bool:
    """Return True if a stage records the 95% interval of the metric beside it."""
    base = metric.removesuffix("_lower")
    return metric in _WITH_INTERVAL or f"{base}_lower" in METRICS


def final_metrics(prefix: str) -> list[str]:
    """Return the listed metrics that begin with the prefix and that a result may have."""
    return [name for name in METRICS if name.startswith(prefix) and is_final(name)]


def require_final(metrics: Iterable[str], intervals: Iterable[str]) -> None:
    """Raise KeyError for names of a result that gates are refused on, because they are not known.

    metrics: of the result; intervals: those of them with a recorded interval.
    """
    if unknown := sorted(name for name in metrics if not is_final(name)):
        raise KeyError(f"{unknown} are metrics of steps by {__name__}, and of a result here")
    if unknown := sorted(
        name for name in intervals if name not in ITEM_METRICS and not has_recorded_interval(name)
    ):
        raise KeyError(f"{unknown} have intervals that {__name__} does not know; add them there")
