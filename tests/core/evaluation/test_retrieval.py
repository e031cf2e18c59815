"""Ranks of prompts by the words of replies, against hand-computed values and chance."""

import random

import pytest
import torch

from rlhf_core.evaluation.retrieval import prompt_ranks, retrieval_loss

PROMPTS = ["Tell me of the red kettle", "Tell me of the blue kettle", "Tell me of the moon"]


def test_ranks_by_hand():
    """Words of every prompt weigh nothing, "kettle" log(3/2), "red", "blue" and "moon" log 3.

    The first reply is most like its own prompt. The second shares "kettle" with two prompts, a tie
    of one, and is above the third. The third shares no word with any.
    """
    replies = ["Red, red kettle!", "THE KETTLE", "Nothing of that sort"]
    assert prompt_ranks(PROMPTS, replies).tolist() == [1.0, 0.75, 0.5]


def test_a_reply_to_another_prompt_ranks_low():
    assert prompt_ranks(PROMPTS, ["moon"] * 3).tolist() == [0.25, 0.25, 1.0]


def test_equal_prompts_are_one_and_a_single_prompt_says_nothing():
    assert prompt_ranks([*PROMPTS, PROMPTS[0]], ["red"] * 4).tolist() == [1.0, 0.25, 0.25, 1.0]
    assert prompt_ranks([PROMPTS[0]] * 2, ["red kettle", ""]).tolist() == [0.5, 0.5]


def test_signs_of_scripts_without_blanks_are_words():
    prompts = ["\u8aac\u8aaa\u6708\u4eae", "\u8aac\u8aaa\u8336\u58f6"]
    assert prompt_ranks(prompts, ["\u6708\u4eae\u5f88\u5706", "\u8336"]).tolist() == [1.0, 1.0]


def test_replies_dealt_at_random_are_at_chance():
    """Over all deals of replies to prompts, the mean rank is exactly 0.5."""
    rng = random.Random(0)
    names = [f"w{i}" for i in range(7)]
    prompts = [" ".join(rng.sample(names, 3)) for _ in range(6)]
    replies = [" ".join(rng.sample(names, 4)) for _ in prompts]
    dealt = [prompt_ranks(prompts, replies[k:] + replies[:k]) for k in range(len(replies))]
    assert float(torch.stack(dealt).mean()) == pytest.approx(0.5)


def test_many_replies_rank_as_few_do():
    """Rows are compared in blocks; the block that a row is in changes nothing."""
    prompts = [f"number {i % 40}" for i in range(1200)]
    replies = [f"{i % 40} or {i % 7}" for i in range(1200)]
    assert prompt_ranks(prompts, replies)[:40].equal(prompt_ranks(prompts[:40], replies[:40]))


def test_the_loss_is_the_share_above_chance_that_is_gone():
    theirs_N = torch.tensor([1.0, 0.8] * 50, dtype=torch.float64)
    loss = retrieval_loss(theirs_N - 0.1, theirs_N)
    assert loss.value == pytest.approx(0.25)  # 0.9 -> 0.8
    assert loss.interval[0] < 0.25 < loss.interval[1]
    assert retrieval_loss(theirs_N, theirs_N).value == 0.0
    assert retrieval_loss(theirs_N + 0.1, theirs_N).interval[1] < 0  # a gain


def test_a_loss_of_nothing_that_can_be_told_is_not_stated():
    theirs_N = torch.tensor([0.2, 0.9] * 50, dtype=torch.float64)  # 0.55, chance in its interval
    loss = retrieval_loss(torch.zeros(100, dtype=torch.float64), theirs_N)
    assert loss.value is None and loss.interval == (0.0, 1.0)
