"""Inputs of the PPO stage for tests of samplers that it runs with."""

from pathlib import Path

import pytest

from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.models import load_scalar, save_model


@pytest.fixture(scope="module")
def ppo_inputs(tiny_model, tiny_splits, tmp_path_factory) -> dict[str, Path]:
    """Return the tiny model as policy, a reward model made from it, and prompts."""
    reward = tmp_path_factory.mktemp("given") / "reward"
    save_model(load_scalar(tiny_model, new_head=True, seed=3), load_tokenizer(tiny_model), reward)
    prompts = tiny_splits / "prompts_train.jsonl"
    return {"policy": tiny_model, "reward": reward, "prompts_train": prompts}
