"""What a rollout's responses are worth before the KL penalty: what models and functions say of
them, weighed and shaped.

Axes: B rows (responses), R response tokens, F reward functions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.collective import gathered
from rlhf_core.config import PPO, RewardFunction, Rewards
from rlhf_core.data.render import token_text
from rlhf_core.errors import BadInput
from rlhf_core.evidence.items import last_user_turn
from rlhf_core.judging.functions import call, call_per_token, load_function
from rlhf_core.modeling.models import final_scores
from rlhf_core.objectives.advantages import Moments, masked_moments, merge_moments
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ranks import is_rank_zero

Scores = list[float] | list[list[float]]  # one a response, or one a token of each
RewardFunctions = Callable[[Rollout], list[Scores]]
SMALLEST_STD = 1e-8  # scores that hardly differ say nothing of their scale
NO_SCORES = Moments(*torch.zeros(3, dtype=torch.float64))  # the running moments before any response


@dataclass(frozen=True)
class ShapedRewards:
    """A rollout's rewards without KL. (B, R) tensors are float32 and 0 at padding."""

    function_scores_BF: (
        Tensor  # what each function said of a response, before its weight; process rewards summed
    )
    score_B: (
        Tensor  # weighted sum over model and functions, process rewards included; before shaping
    )
    final_B: Tensor  # paid at the last token: centred, scaled, clipped, less the penalties
    process_BR: Tensor  # paid at each token: scaled, clipped
    running: Moments  # of all responses' score_B so far


def load_functions(
    functions: list[RewardFunction], records: list[dict], tokenizer: PreTrainedTokenizerBase
) -> RewardFunctions:
    """What asks every function of the recipe about a rollout, in their order.

    records: the prompts that rollouts are about. Raises BadInput for a name that is no function, or
    a column that is missing.
    """
    loaded = [load_function(one.function, "reward function") for one in functions]
    for one in functions:
        require_columns(one, records)

    def ask(rollout: Rollout) -> list[Scores]:
        prompts = [last_user_turn(record["prompt"]) for record in rollout.records]
        replies = [
            tokenizer.decode(s.response, skip_special_tokens=True) for s in rollout.sequences
        ]
        found: list[Scores] = []
        for one, function in zip(functions, loaded, strict=True):
            given = {
                name: [record["meta"][name] for record in rollout.records] for name in one.columns
            }
            asked, role = partial(function, **given), f"reward function {one.function!r}"
            if one.per_token:
                tokens = [
                    [token_text(tokenizer, token) for token in s.response]
                    for s in rollout.sequences
                ]
                found.append(call_per_token(asked, role, prompts, replies, tokens))
            else:
                found.append(call(asked, role, prompts, replies))
        return found

    return lambda rollout: gathered(ask(rollout) if is_rank_zero() else [])[
        0
    ]  # one rank asks: a function may be slow, or random


def require_columns(function: RewardFunction, records: list[dict]) -> None:
    for column in function.columns:
        if missing := sum(column not in record.get("meta", {}) for record in records):
            raise BadInput(
                f"the reward function {function.function!r} needs the column {column!r}, which"
                f" {missing} of {len(records)} prompts have not; expected it beside every prompt in"
                " data.prompts"
            )


def model_rewards(scores_BR1: Tensor, mask_BR: Tensor, at: str) -> tuple[Tensor, Tensor]:
    """The reward model's score of each response, (B,), and its process rewards, (B, R), of which
    one is 0 throughout.

    scores_BR1: the head after t response tokens. at: 'last', the score s_T after the last token;
    'every', s_t at each token t; 'difference', s_t - s_{t-1}, a potential's (Ng et al. 1999,
    "Policy invariance under reward transformations").
    """
    R = mask_BR.shape[1]
    if at == "last":
        return final_scores(scores_BR1, mask_BR), torch.zeros_like(scores_BR1[:, :R])
    before_BR = scores_BR1[:, :R] if at == "difference" else 0.0
    return torch.zeros_like(scores_BR1[:, 0]), (scores_BR1[:, 1:] - before_BR).masked_fill(
        ~mask_BR, 0.0
    )


def weigh(
    model: tuple[Tensor, Tensor],
    said: list[Scores],
    mask_BR: Tensor,
    ended_B: Tensor,
    config: PPO,
    running: Moments,
) -> ShapedRewards:
    """What the reward model (score_B, process_BR) and the functions said, as rewards; running:
    moments before this rollout.
    """
    options = config.reward
    final_B, process_BR, functions_BF = _sum(model, said, mask_BR, options)
    score_B = final_B + process_BR.sum(-1)
    running = merge_moments(running, score_moments(score_B))
    final_B, process_BR = shaped(final_B, process_BR, running, options)
    final_B = final_B - length_penalty(mask_BR, options) - config.missing_eos_penalty * (~ended_B)
    return ShapedRewards(functions_BF, score_B, final_B, process_BR, running)


def _sum(
    model: tuple[Tensor, Tensor], said: list[Scores], mask_BR: Tensor, options: Rewards
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted whole-response scores (B,) and process rewards (B, R), and each function's own
    scores, (B, F).
    """
    final_B, process_BR = (options.model_weight * given for given in model)
    functions_BF = torch.zeros(len(mask_BR), len(said), device=mask_BR.device)
    for place, (one, scores) in enumerate(zip(options.functions, said, strict=True)):
        if one.per_token:
            padded = [row + [0.0] * (mask_BR.shape[1] - len(row)) for row in scores]
            token_BR = torch.tensor(padded, device=mask_BR.device)
            functions_BF[:, place] = token_BR.sum(-1)
            process_BR = process_BR + one.weight * token_BR
        else:
            functions_BF[:, place] = torch.tensor(scores, device=mask_BR.device)
            final_B = final_B + one.weight * functions_BF[:, place]
    return final_B, process_BR, functions_BF


def score_moments(score_B: Tensor) -> Moments:
    """Moments of this rollout's scores, float64 on the CPU."""
    score_B = score_B.double().cpu()
    return masked_moments(score_B, torch.ones_like(score_B, dtype=torch.bool))


def shaped(
    final_B: Tensor, process_BR: Tensor, running: Moments, options: Rewards
) -> tuple[Tensor, Tensor]:
    """clip((score - mean) / std), (B,), and clip(process / std), (B, R), each as far as it is
    switched on.

    mean, std: of all responses' scores so far (over n); the mean is taken off once a response, not
    off each process reward.
    """
    std = float(running.std()) if options.scale else 1.0
    std = std if std > SMALLEST_STD else 1.0
    final_B = (final_B - (float(running.mean) if options.centre else 0.0)) / std
    process_BR = process_BR / std
    if options.clip is None:
        return final_B, process_BR
    return final_B.clamp(-options.clip, options.clip), process_BR.clamp(-options.clip, options.clip)


def length_penalty(mask_BR: Tensor, options: Rewards) -> Tensor:
    """length_penalty * max(0, tokens - length_free), (B,); DAPO's soft overlong punishment is a
    case of it (Yu et al. 2025, arXiv:2503.14476, eq. 13).
    """
    return options.length_penalty * (mask_BR.sum(-1) - options.length_free).clamp(min=0)
