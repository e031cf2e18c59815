"""Answers of verl's reward manager of DAPO: the soft overlong penalty."""

from types import SimpleNamespace

import torch
from cases import Cases
from published import load

LIMIT = 20  # tokens
# buffer in tokens, factor of the penalty
OVERLONG = ((5, 1.0), (8, 0.5), (20, 2.0))


class _Item(SimpleNamespace):
    """A row of verl's DataProto: a prompt of one token, and a response of `tokens` tokens."""

    @classmethod
    def of(cls, tokens: int) -> "_Item":
        mask = torch.arange(1 + LIMIT) < 1 + tokens
        batch = {
            "prompts": torch.zeros(1, dtype=torch.int64),
            "responses": torch.zeros(LIMIT, dtype=torch.int64),
            "attention_mask": mask.long(),
        }
        texts = {"reward_model": {"ground_truth": ""}, "data_source": "test"}
        return cls(batch=batch, non_tensor_batch=texts)


class _Rows(list):
    """As much of verl's DataProto as the reward manager asks for."""

    @property
    def batch(self) -> dict:
        return {"responses": torch.stack([item.batch["responses"] for item in self])}


def verl_reward_cases() -> Cases:
    """Return the rewards of responses of 1 to LIMIT tokens with score 0, by setting."""
    manager = load("verl.workers.reward_manager.dapo").DAPORewardManager
    manager._extract_reward_from_rm_scores = lambda *_: None  # of the base class, a stand-in
    tokenizer = SimpleNamespace(decode=lambda *_, **__: "", eos_token="</s>")
    cases: Cases = {}
    for buffer, factor in OVERLONG:
        config = SimpleNamespace(enable=True, len=buffer, penalty_factor=factor, log=False)
        rewards = manager(
            tokenizer,
            num_examine=0,
            compute_score=lambda **_: 0.0,
            max_resp_len=LIMIT,
            overlong_buffer_cfg=config,
        )(_Rows(_Item.of(tokens) for tokens in range(1, LIMIT + 1)))
        cases[f"overlong/{buffer}/{factor:g}"] = rewards.sum(-1)
    return cases
