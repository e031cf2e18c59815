"""Gates, metrics and items with known outcomes."""

from typing import Any

from rlhf_core.gates.decide import Gate

BOUNDS = {  # does it hold just below, at, just above the threshold
    "at least": (False, True, True),
    "more than": (False, False, True),
    "at most": (True, True, False),
    "less than": (True, False, False),
}
GOOD = {
    "accuracy": 0.75,
    "accuracy_lower": 0.61,
    "heldout_pairs": 500.0,
    "accuracy_over_length": 0.2,
}
SURE = {  # its evidence, as the stage states it
    "counts": {"accuracy_over_length": 500},
    "intervals": {"accuracy_over_length": (0.15, 0.25)},
}
WINS = {"policy_score": [1.0] * 8 + [0.0] * 2, "sft_score": [0.5] * 10}  # 8 of 10, score gain 0.3
# 8 won, 1 lost, 1 tie; gain 0.3
CHAMPION = WINS | {"champion_score": [0.75] * 6 + [0.25, -0.25, 0.5, 0.0]}
EVALUATED = {"win_rate": 0.8, "score_policy": 0.8, "score_sft": 0.5, "score_gain": 0.3}
TEN = {"counts": dict.fromkeys(EVALUATED, 10)}
ITEMS = {
    "prompt_id": ["a", "b", "c", "d"],
    "prompt": ["A?", "B?", "C?", "D?"],
    "policy_reply": ["pa", "pb", "pc", "pd"],
    "sft_reply": ["sa", "sb", "sc", "sd"],
    "champion_reply": ["ca", "cb", "cc", "cd"],
    "policy_score": [2.0, 1.0, 0.0, 3.0],
    "sft_score": [1.0, 1.0, 1.0, 1.0],
    "champion_score": [1.0, 2.0, 0.0, 1.0],
    "policy_tokens": [4, 4, 8, 8],
    "sft_tokens": [4, 2, 4, 2],
    "champion_tokens": [2, 2, 4, 4],
    "policy_ended": [True, True, True, False],
    "sft_ended": [True, True, True, True],
    "champion_ended": [False] * 4,
    "policy_repetition": [0.1, 0.2, 0.3, 0.4],
    "sft_repetition": [0.0, 0.0, 0.2, 0.2],
    "policy_independent": [1.0, 2.0, 3.0, 4.0],
    "sft_independent": [2.0, 2.0, 2.0, 2.0],
    "champion_independent": [0.0, 2.0, 2.5, 5.0],
    "policy_by_champions_reward": [1.0, 1.0, 2.0, 3.0],
    "champion_by_champions_reward": [2.0, 1.0, 1.0, 4.0],
    "best_of_n_reply": ["ba", "bb", "bc", "bd"],
    "best_of_n_score": [2.0, 1.0, 1.0, 2.5],
    "best_of_n_tokens": [4, 4, 4, 5],
    "best_of_n_independent": [2.0, 2.0, 2.0, 3.0],
    "policy_kl": [0.5, 1.0, 1.5, 3.0],
    "judge_vs_sft": [1.0, None, 0.5, 0.0],
    "judge_vs_champion": [1.0, 1.0, None, None],
}


def gate(bound: str = "at least", threshold: float = 0.7, **rule: Any) -> Gate:
    """Return a gate on the accuracy of a reward model."""
    values: dict[str, Any] = {
        "name": "mine",
        "stage": "reward",
        "metric": "reward/accuracy",
        "bound": bound,
        "threshold": threshold,
    }
    return Gate(**values | rule)


def evaluated(**rule: Any) -> Gate:
    """Return a gate on the win rate of an evaluation."""
    values: dict[str, Any] = {"stage": "evaluate", "metric": "eval/win_rate", "threshold": 0.5}
    return gate(**values | rule)
