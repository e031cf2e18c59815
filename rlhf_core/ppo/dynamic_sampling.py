"""Dynamic sampling: groups whose rewards are all equal give way to groups of new prompts.

Such a group has advantage 0 at every token and teaches nothing. Yu et al. 2025, arXiv:2503.14476
(DAPO), section 3.2.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf_core.batching.batch import collate
from rlhf_core.batching.collective import gathered
from rlhf_core.config import PPO, DynamicSampling
from rlhf_core.errors import BadInput
from rlhf_core.ppo.rewards import NO_SCORES, shape_rewards
from rlhf_core.ppo.rollout import Rollout, Scores, Selection
from rlhf_core.ppo.scoring import Models, score_rewards

UNSHAPED = {"centre": False, "scale": False, "clip": None}


@dataclass(frozen=True)
class RewardedRollout:
    """A rollout with the rewards that decide which groups stay."""

    rollout: Rollout
    reward_B: Tensor  # score less penalties, before centring, scaling, clipping and KL
    score_B: Tensor  # before the penalties
    functions: list[Scores]
    seconds: float


@dataclass(frozen=True)
class Wanted:
    """The batch that a step asks for."""

    step: int
    groups: int
    group_size: int
    options: DynamicSampling


Round = Callable[[int, int, int], RewardedRollout]
"""(number from 1, cursor, groups) -> the responses to that number of prompts from the cursor on"""


@torch.no_grad()
def with_rewards(rollout: Rollout, models: Models, config: PPO, *, pad_id: int) -> RewardedRollout:
    """Return the rewards of a rollout by reward models and functions."""
    started = time.monotonic()
    batch = collate(rollout.sequences, pad_id)
    mask_BR = batch.response_mask_BR
    ended_B = torch.tensor(rollout.ended, device=mask_BR.device)
    functions = models.functions(rollout)
    plain = config.model_copy(update={"reward": config.reward.model_copy(update=UNSHAPED)})
    scored = score_rewards(batch, models, config, models.read(rollout))
    rewards = shape_rewards(scored, functions, mask_BR, ended_B, plain, NO_SCORES)
    reward_B = rewards.final_B + rewards.process_BR.sum(-1)
    return RewardedRollout(
        rollout, reward_B, rewards.score_B, functions, time.monotonic() - started
    )


def fill_batch(wanted: Wanted, cursor: int, round_of: Round) -> Rollout:
    """Return the groups with a spread of reward out of as many rounds as it takes.

    Each round asks for as many groups as are missing. After `max_rounds` the groups that are there
    are the batch. All ranks take rank 0's decision. Raises BadInput when there is not a single one.
    """
    rounds: list[tuple[RewardedRollout, list[bool]]] = []
    missing, options = wanted.groups, wanted.options
    while missing and len(rounds) < options.max_rounds:
        rewarded = round_of(len(rounds) + 1, cursor, missing)
        cursor = rewarded.rollout.cursor
        stays = gathered(have_spread(rewarded.reward_B, wanted.group_size, options.min_spread))[0]
        rounds.append((rewarded, stays))
        missing -= sum(stays)
    if missing == wanted.groups:
        raise BadInput(_nothing_left(wanted, rounds))
    return _merged(rounds, wanted.group_size)


def have_spread(reward_B: Tensor, group_size: int, least: float) -> list[bool]:
    """Return for each group True if its rewards differ by more than `least`."""
    reward_GN = reward_B.view(-1, group_size)
    return (reward_GN.amax(-1) - reward_GN.amin(-1) > least).tolist()


def _nothing_left(wanted: Wanted, rounds: list[tuple[RewardedRollout, list[bool]]]) -> str:
    groups = sum(len(stays) for _, stays in rounds)
    return (
        f"ppo step {wanted.step}: in none of {groups} groups ({len(rounds)} rounds) do the rewards"
        f" of the {wanted.group_size} responses differ by more than {wanted.options.min_spread:g};"
        " expected at least one group to learn from. Look at what the reward functions give, raise"
        " ppo.group_size or ppo.dynamic_sampling.max_rounds, or take prompts that the policy"
        " neither always nor never solves."
    )


def _merged(rounds: list[tuple[RewardedRollout, list[bool]]], group_size: int) -> Rollout:
    """Return one rollout of the groups that stay, in the order of sampling."""
    rows = [
        [row for row in range(len(rewarded.rollout.sequences)) if stays[row // group_size]]
        for rewarded, stays in rounds
    ]
    found = [rewarded.rollout for rewarded, _ in rounds]
    sequences = _kept([rollout.sequences for rollout in found], rows)
    tokens = sum(rollout.response_tokens for rollout in found)
    scores = [score for rewarded, _ in rounds for score in rewarded.score_B.tolist()]
    by_function = zip(*(rewarded.functions for rewarded, _ in rounds), strict=True)
    selection = Selection(
        rounds=len(rounds),
        groups_dropped=sum(stays.count(False) for _, stays in rounds),
        tokens_dropped=tokens - sum(len(sequence.response) for sequence in sequences),
        score_mean=sum(scores) / len(scores),
        seconds=sum(rewarded.seconds for rewarded, _ in rounds),
        functions=[_kept(lists, rows) for lists in by_function],
    )
    return replace(
        found[-1],
        sequences=sequences,
        sampler_logprobs=_kept([rollout.sampler_logprobs for rollout in found], rows),
        ended=_kept([rollout.ended for rollout in found], rows),
        records=tuple(_kept([rollout.records for rollout in found], rows)),
        seconds=sum(rollout.seconds for rollout in found),
        selection=selection,
    )


def _kept(lists: Iterable[Sequence], rows: list[list[int]]) -> list:
    """Return the items of the rows that stay, out of one list per round."""
    return [items[row] for items, own in zip(lists, rows, strict=True) for row in own]
