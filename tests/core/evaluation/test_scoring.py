"""Scores of equal replies tie, packed or padded.

The independent scorer reads the whole conversation.
"""

from pathlib import Path

import pytest
import torch

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import Evaluate
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.evaluation.replies import Replies, Setup
from rlhf_core.evaluation.scoring import (
    independent_scores,
    load_frozen_policy,
    response_kl,
    reward_scores,
)
from rlhf_core.modeling.models import inference, load_policy, load_scalar, save_model
from rlhf_core.reward.scoring import score_sequences

DIALOGUE = [
    {"role": "system", "content": "answer in French"},
    {"role": "user", "content": "the capital of Peru?"},
]


def test_the_scorer_sees_system_message_roles_and_earlier_turns(tiny_model):
    rows = [{"prompt": DIALOGUE}, {"prompt": [{"role": "user", "content": "hello"}]}]
    setup = Setup(load_tokenizer(tiny_model), rows, Evaluate(), 0, "float32")
    replies = {"policy": Replies([Sequence([2], [3])] * 2, ["Lima", "hi"], [True, True])}
    seen = []

    def french(prompts: list[str], answers: list[str]) -> list[float]:
        seen.extend(prompts)
        return [float("French" in prompt) for prompt in prompts]

    def roles(prompts: list[str], answers: list[str], messages: list) -> list[float]:
        return [float(own[0]["role"] == "system") for own in messages]

    assert independent_scores(setup, french, replies)["policy"].tolist() == [1.0, 0.0]
    assert seen == ["system: answer in French\n\nuser: the capital of Peru?", "hello"]
    assert independent_scores(setup, roles, replies)["policy"].tolist() == [1.0, 0.0]


def replied(sequences: list[Sequence]) -> Replies:
    return Replies(sequences, [""] * len(sequences), [True] * len(sequences))


@pytest.fixture
def replies() -> dict[str, Replies]:
    """30 replies that are the same, and others: the policy's are long, the SFT model's short."""
    drawn = torch.randint(5, 60, (60, 40), generator=torch.Generator().manual_seed(1)).tolist()
    same = [Sequence(row[:9], row[9 : 11 + k % 7]) for k, row in enumerate(drawn[:30])]
    prompts = [row[:9] for row in drawn[30:]]
    long = [Sequence(p, row[9:]) for p, row in zip(prompts, drawn[30:], strict=True)]
    short = [Sequence(p, row[9:11]) for p, row in zip(prompts, drawn[30:], strict=True)]
    return {
        "policy": replied([one for pair in zip(same, long, strict=True) for one in pair]),
        "sft": replied([one for pair in zip(same, short, strict=True) for one in pair]),
    }


@pytest.fixture
def reward(tiny_model: Path, tmp_path: Path) -> Path:
    """A reward model with a drawn head."""
    model = load_scalar(tiny_model, new_head=True, seed=3)
    save_model(model, load_tokenizer(tiny_model), tmp_path / "reward")
    return tmp_path / "reward"


def setup_of(model: Path, *, packing: bool = False) -> Setup:
    rows = [{"prompt": [{"role": "user", "content": "w1"}]}] * 60
    config = Evaluate(micro_batch_tokens=512, packing=packing)
    return Setup(load_tokenizer(model), rows, config, 0, "float32")


def test_equal_replies_tie_whatever_else_is_in_their_batches(tiny_model: Path, reward, replies):
    """Bug: padding to other widths changes a score in its last bits, so half of the ties were won.

    30 replies of the policy and the SFT model are the same.
    """
    setup = setup_of(tiny_model)
    found = {name: s_1N[0] for name, s_1N in reward_scores(setup, reward, replies).items()}
    assert found["policy"][0::2].equal(found["sft"][0::2])
    assert not found["policy"][1::2].eq(found["sft"][1::2]).any()
    forward = inference(load_scalar(reward), dtype="float32")
    alone = {
        name: score_sequences(forward, own.sequences, setup.tokenizer.pad_token_id, 512)
        for name, own in replies.items()
    }
    assert found["policy"].equal(alone["policy"])  # the first ones are as they were
    assert not alone["policy"][0::2].equal(alone["sft"][0::2])  # without it they do not tie
    torch.testing.assert_close(found["sft"], alone["sft"])


def test_packed_replies_have_the_scores_of_padded_ones_and_win_as_often(
    tiny_model: Path, reward, replies, capsys
):
    padded, packed = (
        reward_scores(setup_of(tiny_model, packing=packing), reward, replies)
        for packing in (False, True)
    )
    assert "once per sequence" in capsys.readouterr().out
    for name in replies:
        torch.testing.assert_close(packed[name], padded[name], atol=1e-6, rtol=1e-6)
    assert packed["policy"][0, 0::2].equal(packed["sft"][0, 0::2])
    won = [found["policy"].sub(found["sft"]).sign() for found in (padded, packed)]
    assert won[1].equal(won[0])


def test_the_kl_of_packed_replies_is_that_of_padded_ones(tiny_model: Path, tmp_path, replies):
    moved = load_policy(tiny_model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    save_model(moved, load_tokenizer(tiny_model), tmp_path / "policy")
    found = []
    for packing in (False, True):
        setup = setup_of(tiny_model, packing=packing)
        policy, reference = (
            load_frozen_policy(setup, path) for path in (tmp_path / "policy", tiny_model)
        )
        found.append(response_kl(setup, policy, reference, replies["policy"].sequences))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-6)
    assert found[1][1] == pytest.approx(found[0][1], abs=1e-6)
