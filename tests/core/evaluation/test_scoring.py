"""Scores of equal replies tie; the independent scorer reads the whole conversation."""

from pathlib import Path

import torch

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import Evaluate
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.evaluation.replies import Replies, Setup
from rlhf_core.evaluation.scoring import independent_scores, reward_scores
from rlhf_core.modeling.models import inference, load_scalar, save_model
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


def test_equal_replies_tie_whatever_else_is_in_their_batches(tiny_model: Path, tmp_path: Path):
    """Bug: padding to other widths changes a score in its last bits, so half of the ties were won.

    The policy's other replies are long, the SFT model's are short: 30 replies are the same.
    """
    tokenizer = load_tokenizer(tiny_model)
    save_model(load_scalar(tiny_model, new_head=True, seed=3), tokenizer, tmp_path / "reward")
    drawn = torch.randint(5, 60, (60, 40), generator=torch.Generator().manual_seed(1)).tolist()
    same = [Sequence(row[:9], row[9 : 11 + k % 7]) for k, row in enumerate(drawn[:30])]
    prompts = [row[:9] for row in drawn[30:]]
    long = [Sequence(p, row[9:]) for p, row in zip(prompts, drawn[30:], strict=True)]
    short = [Sequence(p, row[9:11]) for p, row in zip(prompts, drawn[30:], strict=True)]
    replies = {
        "policy": replied([one for pair in zip(same, long, strict=True) for one in pair]),
        "sft": replied([one for pair in zip(same, short, strict=True) for one in pair]),
    }
    rows = [{"prompt": [{"role": "user", "content": "w1"}]}] * 60
    setup = Setup(tokenizer, rows, Evaluate(micro_batch_tokens=512), 0, "float32")
    found = {
        name: s_1N[0] for name, s_1N in reward_scores(setup, tmp_path / "reward", replies).items()
    }
    assert found["policy"][0::2].equal(found["sft"][0::2])
    assert not found["policy"][1::2].eq(found["sft"][1::2]).any()
    forward = inference(load_scalar(tmp_path / "reward"), dtype="float32")
    alone = {
        name: score_sequences(forward, own.sequences, tokenizer.pad_token_id, 512)
        for name, own in replies.items()
    }
    assert found["policy"].equal(alone["policy"])  # the first ones are as they were
    assert not alone["policy"][0::2].equal(alone["sft"][0::2])  # without it they do not tie
    torch.testing.assert_close(found["sft"], alone["sft"])
