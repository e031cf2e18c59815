"""The items of an evaluation: what a run with another model pairs with."""

import pytest
import torch
from chat_families import FAMILIES

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import Evaluate
from rlhf_core.data.chat_template import ensure_chat_template
from rlhf_core.data.render import render_prompt
from rlhf_core.evaluation.items import item_columns
from rlhf_core.evaluation.replies import Replies, Setup

ROWS = [
    {"prompt": [{"role": "user", "content": "Why?"}]},
    {"prompt": [{"role": "user", "content": "Why? "}]},
    {
        "prompt": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "So."},
            {"role": "user", "content": "Why?"},
        ]
    },
]


def ids_of(family: str) -> list[str]:
    tokenizer = FAMILIES[family].tokenizer()
    ensure_chat_template(tokenizer)
    setup = Setup(tokenizer, ROWS, Evaluate(), 1, "float32")
    prompts = [render_prompt(tokenizer, row["prompt"]) for row in ROWS]
    replies = Replies([Sequence(prompt, [5]) for prompt in prompts], ["a"] * 3, [True] * 3)
    return item_columns(setup, {"policy": replies}, [{"policy": torch.zeros(3)}], {})["prompt_id"]


@pytest.mark.parametrize("family", ["llama 3.2", "no template"])
def test_the_identity_of_a_prompt_does_not_depend_on_the_models_template(family):
    assert ids_of(family) == ids_of("qwen 2.5")


def test_different_prompts_have_different_identities():
    assert len(set(ids_of("qwen 2.5"))) == 3
