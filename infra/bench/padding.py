"""Measure padding: its share of a step's tokens, and passes packed beside the same ones padded.

    .venv/bin/python infra/bench/padding.py [--shape small] [--repeats 3] [--only NAME ...]

Rows are ragged as in `make bench`, micro batches as in the stages with `micro_batch_tokens` at its
default. Seconds are of one processor (process_time with one thread), the two in turn within this
process, so that a ratio means something on a machine that others use.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from shapes import SHAPES, Shape, row_lengths
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.batching.microbatches import microbatches
from rlhf_core.config import SFT
from rlhf_core.engine.base import WrappedModel
from rlhf_core.modeling.models import PolicyModel, ScalarModel
from rlhf_core.modeling.packed_attention import without_padding
from rlhf_core.modeling.token_scores import TokenQuery

ROWS = 32  # of a step
BUDGETS = (1024, SFT().micro_batch_tokens, 16384)


@dataclass(frozen=True)
class Passes:
    """The passes of a step: which model reads which rows, with gradients or without."""

    rows: str
    scalar: bool
    learns: bool
    group: int = 1


PASSES = {
    "sft": Passes("demonstrations", scalar=False, learns=True),
    "reward": Passes("pairs", scalar=True, learns=True, group=2),
    "dpo": Passes("pairs", scalar=False, learns=True, group=2),
    "ppo-actor-score": Passes("replies", scalar=False, learns=False),
    "ppo-critic-score": Passes("replies", scalar=True, learns=False),
    "ppo-actor-update": Passes("replies", scalar=False, learns=True),
    "ppo-critic-update": Passes("replies", scalar=True, learns=True),
}


def make_rows(shape: Shape) -> dict[str, list[Sequence]]:
    """Return seeded rows; a third of a demonstration, or of a pair's shorter row, is prompt."""
    rng = random.Random(0)

    def row(prompt: int, response: int) -> Sequence:
        ids = [rng.randrange(5, shape.model["vocab_size"]) for _ in range(prompt + response)]
        return Sequence(ids[:prompt], ids[prompt:])

    demonstrations = [row(n // 3, n - n // 3) for n in row_lengths(shape, ROWS, seed=1)]
    sides = (row_lengths(shape, ROWS // 2, seed=seed) for seed in (2, 3))
    pairs = [
        row(min(both) // 3, n - min(both) // 3) for both in zip(*sides, strict=True) for n in both
    ]
    low, high = shape.ragged
    replies = [row(shape.prompt_tokens, rng.randint(low, high)) for _ in range(ROWS)]
    return {"demonstrations": demonstrations, "pairs": pairs, "replies": replies}


def padded_share(rows: list[Sequence], budget: int, group: int) -> float:
    """Return the share of padding in all tokens of a step's micro batches."""
    read = 0
    for part in microbatches([row.size for row in rows], budget, group=group):
        read += collate([rows[i] for i in part], 0).ids_BL.numel()
    return 1 - sum(map(len, rows)) / read


def step_of(passes: Passes, rows: list[Sequence], shape: Shape, on: bool) -> Callable[[], None]:
    """Return the passes of one step as a call, packed or padded."""
    torch.manual_seed(0)
    config = LlamaConfig(**shape.model, num_labels=1, pad_token_id=0)
    model: WrappedModel
    if passes.scalar:
        model = ScalarModel(LlamaForSequenceClassification(config))
    else:
        model = PolicyModel(LlamaForCausalLM(config))
    model = without_padding(model, on=on, dtype="float32")
    parts = microbatches(
        [row.size for row in rows], SFT().micro_batch_tokens, group=passes.group, packing=on
    )
    batches = [collate([rows[i] for i in part], 0) for part in parts]

    def step() -> None:
        for batch in batches:
            with torch.set_grad_enabled(passes.learns):
                if passes.scalar:
                    numbers_BR = model(batch)[:, 1:]
                else:
                    numbers_BR = model(batch, query=TokenQuery()).logprobs_BR
            if passes.learns:
                numbers_BR[batch.response_mask_BR].mean().backward()

    return step


def main(words: list[str] | None = None) -> None:
    """Print the table of shares, then a line for each kind of passes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(PASSES), default=[])
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    shape = SHAPES[options.shape]
    rows = make_rows(shape)
    for kind, group in (("demonstrations", 1), ("pairs", 2), ("replies", 1)):
        shares = [f"{budget}: {padded_share(rows[kind], budget, group):.0%}" for budget in BUDGETS]
        print(f"padding, {ROWS} {kind}, by micro_batch_tokens: {', '.join(shares)}")
    for name in options.only or PASSES:
        passes = PASSES[name]
        steps = [step_of(passes, rows[passes.rows], shape, on) for on in (False, True)]
        seconds: list[list[float]] = [[], []]
        for _ in range(options.repeats + 1):  # the first warms up
            for step, found in zip(steps, seconds, strict=True):
                started = time.process_time()
                step()
                found.append(time.process_time() - started)
        padded, packed = (found[1:] for found in seconds)
        ratios = [one / other for one, other in zip(padded, packed, strict=True)]
        print(
            f"{name}: padded {statistics.median(padded):.2f} s, packed"
            f" {statistics.median(packed):.2f} s, ratio {statistics.median(ratios):.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
