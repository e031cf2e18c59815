"""Rewards before the KL penalty: scores of reward model and functions, weighted and shaped.

Axes: B rows (responses), R response tokens, F reward functions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.collective import gathered
from rlhf_core.config import PPO, RewardFunction, Rewards
from rlhf_core.data.render import reply_text, token_text
from rlhf_core.errors import BadInput
from rlhf_core.judging.functions import call, call_per_token, conversation, with_messages
from rlhf_core.modeling.models import final_scores
from rlhf_core.named_functions import REWARDS, load_function
from rlhf_core.objectives.advantages import Moments, masked_moments, merge_moments
from rlhf_core.ppo.rollout import Rollout, Scores
from rlhf_core.ranks import is_rank_zero

RolloutScorer = Callable[[Rollout], list[Scores]]
"""A rollout -> the scores of each of the recipe's reward functions, in their order."""
SMALLEST_STD = 1e-8  # scores that differ by less are not scaled
NO_SCORES = Moments(*torch.zeros(3, dtype=torch.float64))  # the running moments before any response


@dataclass(frozen=True)
class RewardModelScores:
    """Scores by the reward model, the mean over an ensemble. Tensors are float32, 0 at padding.

    Of score_B and process_BR one is 0 throughout.
    """

    score_B: Tensor  # of the whole response
    process_BR: Tensor  # of each token
    spread_B: Tensor | None  # standard deviation over the ensemble; None for one reward model


@dataclass(frozen=True)
class ShapedRewards:
    """A rollout's rewards without KL. Tensors are float32, (B, R) tensors 0 at padding."""

    # each function's score of a response, before its weight; process rewards summed
    function_scores_BF: Tensor
    # weighted sum over model and functions, process rewards included; before shaping
    score_B: Tensor
    # paid at the last token: centred, scaled, clipped, less the penalties
    final_B: Tensor
    process_BR: Tensor  # paid at each token: scaled, clipped; 0 without process rewards
    running: Moments  # of all responses' score_B so far, this rollout's included
    cut_B: Tensor  # bool, cut by max_new_tokens: not ended by end-of-text


def load_functions(
    functions: list[RewardFunction], records: Sequence[dict], tokenizer: PreTrainedTokenizerBase
) -> RolloutScorer:
    """Return a callable that scores a rollout by every function of the recipe, in their order.

    One rank calls the functions, which may be slow or random; all ranks get the scores.
    records: those of all prompts. Raises BadInput for a name that is no function, or a column that
    is missing.
    """
    loaded = [load_function(one.function, "reward function", REWARDS) for one in functions]
    for one in functions:
        require_columns(one, records)

    def score(rollout: Rollout) -> list[Scores]:
        return [
            _function_scores(one, function, rollout, tokenizer)
            for one, function in zip(functions, loaded, strict=True)
        ]

    return lambda rollout: gathered(score(rollout) if is_rank_zero() else [])[0]


def _function_scores(
    one: RewardFunction, function: Callable, rollout: Rollout, tokenizer: PreTrainedTokenizerBase
) -> Scores:
    dialogues = [record["prompt"] for record in rollout.records]
    prompts = [conversation(messages) for messages in dialogues]
    replies = [reply_text(tokenizer, s.response) for s in rollout.sequences]
    given = {name: [record["meta"][name] for record in rollout.records] for name in one.columns}
    asking = with_messages(function, dialogues, lists=3 if one.per_token else 2)
    bound = partial(asking, **given)
    role = f"reward function {one.function!r}"
    if not one.per_token:
        return call(bound, role, prompts, replies)
    tokens = [[token_text(tokenizer, token) for token in s.response] for s in rollout.sequences]
    return call_per_token(bound, role, prompts, replies, tokens)


def require_columns(function: RewardFunction, records: Sequence[dict]) -> None:
    """Raise BadInput when a prompt lacks a column that the function takes."""
    for column in function.columns:
        if missing := sum(column not in record.get("meta", {}) for record in records):
            raise BadInput(
                f"the reward function {function.function!r} needs the column {column!r}, which"
                f" {missing} of {len(records)} prompts have not; expected it beside every prompt in"
                " data.prompts"
            )


def model_rewards(scores_BR1: Tensor, mask_BR: Tensor, at: str) -> tuple[Tensor, Tensor]:
    """Return one reward model's whole-response scores, (B,), and process rewards, (B, R).

    One of the two is 0 throughout.
    scores_BR1: the head after t response tokens.
    at: 'last', the score s_T after the last token; 'every', s_t at each token t; 'difference',
    s_t - s_{t-1}, a potential's (Ng et al. 1999, "Policy invariance under reward transformations").
    """
    R = mask_BR.shape[1]
    if at == "last":
        return final_scores(scores_BR1, mask_BR), torch.zeros_like(scores_BR1[:, :R])
    process_BR = scores_BR1[:, 1:] - (scores_BR1[:, :R] if at == "difference" else 0.0)
    return torch.zeros_like(scores_BR1[:, 0]), process_BR.masked_fill(~mask_BR, 0.0)


def shape_rewards(
    model: RewardModelScores,
    functions: list[Scores],
    mask_BR: Tensor,
    ended_B: Tensor,
    config: PPO,
    running: Moments,
) -> ShapedRewards:
    """Return the rewards that the scores of reward model and functions give.

    An uncertain ensemble pays less: mean - coefficient * variance (Coste et al. 2023,
    arXiv:2310.02743, eq. 5). With truncated = 'bootstrap' a cut response is not paid its score: the
    value at the cut stands for the score that the whole response would get. Penalties and process
    rewards are paid all the same.
    running: the moments of all scores before this rollout.
    """
    options = config.reward
    final_B, process_BR, functions_BF = _weighted_sum(model, functions, mask_BR, options)
    score_B = final_B + process_BR.sum(-1)
    running = merge_moments(running, score_moments(score_B))
    final_B, process_BR = normalise(final_B, process_BR, running, options)
    bootstrapped_B = ~ended_B & (config.truncated == "bootstrap")
    final_B = final_B.masked_fill(bootstrapped_B, 0.0) - overlong_penalty(mask_BR, config)
    final_B = final_B - length_penalty(mask_BR, options) - config.missing_eos_penalty * (~ended_B)
    if config.uncertainty_penalty:
        assert model.spread_B is not None  # load_models refuses the penalty without an ensemble
        variance_B = (model.spread_B**2).masked_fill(bootstrapped_B, 0.0)
        final_B = final_B - config.uncertainty_penalty * variance_B
    return ShapedRewards(functions_BF, score_B, final_B, process_BR, running, ~ended_B)


def _weighted_sum(
    model: RewardModelScores, functions: list[Scores], mask_BR: Tensor, options: Rewards
) -> tuple[Tensor, Tensor, Tensor]:
    """Return whole-response scores (B,), process rewards (B, R), and each function's own (B, F)."""
    final_B = options.model_weight * model.score_B
    process_BR = options.model_weight * model.process_BR
    functions_BF = torch.zeros(len(mask_BR), len(functions), device=mask_BR.device)
    for place, (one, scores) in enumerate(zip(options.functions, functions, strict=True)):
        if one.per_token:
            token_BR = padded_rows(scores, mask_BR.shape[1]).to(mask_BR.device)
            functions_BF[:, place] = token_BR.sum(-1)
            process_BR = process_BR + one.weight * token_BR
        else:
            functions_BF[:, place] = torch.tensor(scores, device=mask_BR.device)
            final_B = final_B + one.weight * functions_BF[:, place]
    return final_B, process_BR, functions_BF


def padded_rows(rows: list, width: int) -> Tensor:
    """Return lists of numbers of unequal length as one (B, width) tensor, 0 at padding."""
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])


def score_moments(score_B: Tensor) -> Moments:
    """Return the moments of this rollout's scores, float64 on the CPU."""
    score_B = score_B.double().cpu()
    return masked_moments(score_B, torch.ones_like(score_B, dtype=torch.bool))


def normalise(
    final_B: Tensor, process_BR: Tensor, running: Moments, options: Rewards
) -> tuple[Tensor, Tensor]:
    """Return clip((score - mean) / std), (B,), and clip(process / std), (B, R).

    Centring, scaling and clipping each only where switched on.
    mean, std: of all responses' scores so far (over n). The mean is subtracted once per response,
    not from each process reward.
    """
    std = float(running.std()) if options.scale else 1.0
    std = std if std > SMALLEST_STD else 1.0
    final_B = (final_B - (float(running.mean) if options.centre else 0.0)) / std
    process_BR = process_BR / std
    if options.clip is None:
        return final_B, process_BR
    return final_B.clamp(-options.clip, options.clip), process_BR.clamp(-options.clip, options.clip)


def length_penalty(mask_BR: Tensor, options: Rewards) -> Tensor:
    """Return length_penalty * max(0, tokens - length_free), (B,)."""
    return options.length_penalty * (mask_BR.sum(-1) - options.length_free).clamp(min=0)


def overlong_penalty(mask_BR: Tensor, config: PPO) -> Tensor:
    """Return overlong_coef * min(1, max(0, tokens - limit + buffer) / buffer), (B,).

    limit: max_new_tokens. buffer: overlong_buffer tokens; 0 without one. This is DAPO's soft
    overlong punishment (Yu et al. 2025, arXiv:2503.14476, eq. 13).
    """
    tokens_B, buffer = mask_BR.sum(-1), config.overlong_buffer
    if not buffer:
        return torch.zeros(tokens_B.shape, device=tokens_B.device)
    excess_B = tokens_B - (config.sampling.max_new_tokens - buffer)
    return config.overlong_coef * (excess_B / buffer).clamp(0, 1)
