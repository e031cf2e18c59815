"""The models and rows that both sides of `make bench` take: random weights, seeded words.

Our side reads splits of messages, TRL's side the same rows as token ids (tokens.json).
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from shapes import Shape, row_lengths
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rlhf_core.batching.batch import encode
from rlhf_core.data.render import render_prompt
from rlhf_core.data.splits import save_split
from rlhf_core.quickstart.base_model import PAD, SPECIAL, TEMPLATE

SEED = 0
AROUND_PROMPT = 3  # tokens of the template: begin, user, assistant


@dataclass(frozen=True)
class Rows:
    """Rows of messages: prompts, demonstrations and comparisons, ragged and of equal length."""

    prompts: list[dict]
    demonstrations: dict[str, list[dict]]
    comparisons: dict[str, list[dict]]


def write(folder: Path, shape: Shape) -> dict[str, dict[str, int]]:
    """Write models, splits and tokens.json; return the tokens of a step, by stage and kind."""
    tokenizer = make_tokenizer(shape)
    _write_models(folder, shape, tokenizer)
    rows = make_rows(shape)
    save_split(folder / "prompts_train.jsonl", rows.prompts)
    tokens: dict = {"prompts": [render_prompt(tokenizer, r["prompt"]) for r in rows.prompts]}
    for kind in ("ragged", "equal"):
        for side in ("train", "heldout"):
            demonstrations, comparisons = rows.demonstrations[kind], rows.comparisons[kind]
            if side == "heldout":  # the stages measure it before and after; one row is enough
                demonstrations, comparisons = demonstrations[:1], comparisons[:1]
            save_split(folder / kind / f"demonstrations_{side}.jsonl", demonstrations)
            save_split(folder / kind / f"comparisons_{side}.jsonl", comparisons)
        tokens[f"sft_{kind}"] = [
            {"prompt": one.prompt, "response": one.response}
            for one in encode(tokenizer, rows.demonstrations[kind], "response")
        ]
        sides = [encode(tokenizer, rows.comparisons[kind], side) for side in ("chosen", "rejected")]
        tokens[f"reward_{kind}"] = [
            {"chosen": one.prompt + one.response, "rejected": other.prompt + other.response}
            for one, other in zip(*sides, strict=True)
        ]
    (folder / "tokens.json").write_text(json.dumps(tokens), encoding="utf-8")
    return {
        kind: {
            "sft": sum(len(ids) for row in tokens[f"sft_{kind}"] for ids in row.values()),
            "reward": sum(len(ids) for row in tokens[f"reward_{kind}"] for ids in row.values()),
        }
        for kind in ("ragged", "equal")
    }


def make_tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word, of the model's vocabulary."""
    words = [*SPECIAL, *(f"w{i}" for i in range(shape.model["vocab_size"] - len(SPECIAL)))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _write_models(folder: Path, shape: Shape, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos")}
    config = LlamaConfig(
        **shape.model, **ids, eos_token_id=tokenizer.eos_token_id, num_labels=1, dtype="float32"
    )
    for name, kind in (("model", LlamaForCausalLM), ("reward", LlamaForSequenceClassification)):
        torch.manual_seed(SEED)
        kind(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def make_rows(shape: Shape) -> Rows:
    """Return the seeded rows of all comparisons.

    Of a ragged demonstration a third is the prompt. Where rows have one length, the prompt is one
    word, so that nearly every token is trained and the plain model has no more to compute.
    """
    rng = random.Random(SEED)
    words = shape.model["vocab_size"] - len(SPECIAL)

    def text(count: int) -> str:
        return " ".join(f"w{rng.randrange(words)}" for _ in range(max(1, count)))

    def asked(tokens: int) -> list[dict]:
        return [{"role": "user", "content": text(tokens - AROUND_PROMPT)}]

    def demonstration(length: int, prompt: int) -> dict:
        response = text(length - prompt - 1)  # the end of turn follows
        return {"id": str(rng.random()), "prompt": asked(prompt), "response": response}

    def comparison(chosen: int, rejected: int, prompt: int) -> dict:
        answers = {"chosen": text(chosen - prompt - 1), "rejected": text(rejected - prompt - 1)}
        return {"id": str(rng.random()), "prompt": asked(prompt)} | answers

    one_word, equal = AROUND_PROMPT + 1, shape.equal
    long, short = (row_lengths(shape, shape.pairs, seed=seed) for seed in (2, 3))
    return Rows(
        prompts=[
            {"id": str(i), "prompt": asked(shape.prompt_tokens)} for i in range(shape.prompts)
        ],
        demonstrations={
            "ragged": [
                demonstration(length, max(one_word, length // 3))
                for length in row_lengths(shape, shape.demonstrations, seed=1)
            ],
            "equal": [demonstration(equal, one_word) for _ in range(shape.demonstrations)],
        },
        comparisons={
            "ragged": [
                comparison(a, b, max(one_word, min(a, b) // 3))
                for a, b in zip(long, short, strict=True)
            ],
            "equal": [comparison(equal, equal, one_word) for _ in range(shape.pairs)],
        },
    )
