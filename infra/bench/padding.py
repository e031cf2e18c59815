"""Measure padding: its share of a step's tokens, and passes packed beside the same ones padded.

    .venv/stage/bin/python infra/bench/padding.py [--shape small] [--repeats 3] [--only NAME ...]
    .venv/stage/bin/python infra/bench/padding.py --share-prompts

Rows are ragged as in `make bench`, micro batches as in the stages with `micro_batch_tokens` at its
default. With --share-prompts, passes of PPO that read a prompt once for its replies run beside the
same passes packed, by the replies to a prompt and its length.
Seconds are of one processor (process_time with one thread), the two in turn within this process, so
that a ratio means something on a machine that others use.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from shapes import SHAPES, Shape, ragged_replies, row_lengths
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.batching.microbatches import microbatches
from rlhf_core.config import SFT, Evaluate
from rlhf_core.engine.base import WrappedModel
from rlhf_core.modeling.models import PolicyModel, ScalarModel
from rlhf_core.modeling.packed_attention import without_padding
from rlhf_core.modeling.token_scores import TokenQuery

ROWS = 32  # of a step
BUDGETS = (1024, SFT().micro_batch_tokens, 16384)
EVALUATED = Evaluate().micro_batch_tokens
GROUPS = (1, 4, 8)  # replies to a prompt
PROMPT_TO_REPLY = (0.5, 1.0, 2.0)  # tokens of a prompt over those of a reply


@dataclass(frozen=True)
class Passes:
    """The passes of a step: which model reads which rows, with gradients or without."""

    rows: str
    scalar: bool
    learns: bool
    group: int = 1
    budget: int = SFT().micro_batch_tokens


PASSES = {
    "sft": Passes("demonstrations", scalar=False, learns=True),
    "reward": Passes("pairs", scalar=True, learns=True, group=2),
    "dpo": Passes("pairs", scalar=False, learns=True, group=2),
    "ppo-actor-score": Passes("replies", scalar=False, learns=False),
    "ppo-critic-score": Passes("replies", scalar=True, learns=False),
    "ppo-actor-update": Passes("replies", scalar=False, learns=True),
    "ppo-critic-update": Passes("replies", scalar=True, learns=True),
    "evaluate-reward": Passes("replies", scalar=True, learns=False, budget=EVALUATED),
    "evaluate-kl": Passes("replies", scalar=False, learns=False, budget=EVALUATED),
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
    replies = [row(shape.prompt_tokens, rng.randint(*shape.ragged)) for _ in range(ROWS)]
    return {"demonstrations": demonstrations, "pairs": pairs, "replies": replies}


def grouped_rows(shape: Shape, group: int, ratio: float) -> list[Sequence]:
    """Return ragged replies, `group` to a prompt of `ratio` times their mean length."""
    rng = random.Random(0)
    vocabulary, replies = range(5, shape.model["vocab_size"]), ragged_replies(shape, ROWS, seed=1)
    prompts = [
        rng.choices(vocabulary, k=round(ratio * statistics.mean(replies)))
        for _ in range(ROWS // group)
    ]
    return [
        Sequence(prompts[i // group], rng.choices(vocabulary, k=n)) for i, n in enumerate(replies)
    ]


def padded_share(rows: list[Sequence], budget: int, group: int) -> float:
    """Return the share of padding in all tokens of a step's micro batches."""
    read = 0
    for part in microbatches([row.size for row in rows], budget, group=group):
        read += collate([rows[i] for i in part], 0).ids_BL.numel()
    return 1 - sum(map(len, rows)) / read


def step_of(
    passes: Passes,
    rows: list[Sequence],
    shape: Shape,
    *,
    packing: bool,
    share_prompts: bool = False,
) -> Callable[[], None]:
    """Return the passes of one step as a call."""
    torch.manual_seed(0)
    config = LlamaConfig(**shape.model, num_labels=1, pad_token_id=0)
    model: WrappedModel
    if passes.scalar:
        model = ScalarModel(LlamaForSequenceClassification(config))
    else:
        model = PolicyModel(LlamaForCausalLM(config))
    model = without_padding(model, on=packing, dtype="float32", share_prompts=share_prompts)
    parts = microbatches(
        [row.size for row in rows],
        passes.budget,
        group=passes.group,
        packing=packing,
        prompts=[tuple(row.prompt) for row in rows] if share_prompts else None,
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


def beside(name: str, steps: dict[str, Callable[[], None]], repeats: int) -> None:
    """Run two steps in turn, and print the seconds of each and the first over the second."""
    seconds: dict[str, list[float]] = {how: [] for how in steps}
    for _ in range(repeats + 1):  # the first warms up
        for how, step in steps.items():
            started = time.process_time()
            step()
            seconds[how].append(time.process_time() - started)
    first, second = (found[1:] for found in seconds.values())
    ratios = [one / other for one, other in zip(first, second, strict=True)]
    medians = ", ".join(f"{how} {statistics.median(t[1:]):.2f} s" for how, t in seconds.items())
    print(
        f"{name}: {medians}, ratio {statistics.median(ratios):.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def measure_padding(shape: Shape, names: list[str], repeats: int) -> None:
    """Print the table of shares, then a line for each kind of passes."""
    rows = make_rows(shape)
    for kind, group in (("demonstrations", 1), ("pairs", 2), ("replies", 1)):
        shares = [f"{budget}: {padded_share(rows[kind], budget, group):.0%}" for budget in BUDGETS]
        print(f"padding, {ROWS} {kind}, by micro_batch_tokens: {', '.join(shares)}")
    for name in names:
        passes = PASSES[name]
        own = rows[passes.rows]
        steps = {
            how: step_of(passes, own, shape, packing=how == "packed")
            for how in ("padded", "packed")
        }
        beside(name, steps, repeats)


def measure_sharing(shape: Shape, names: list[str], repeats: int) -> None:
    """Print a line for each kind of passes over replies, group size and length of the prompt."""
    for name in names:
        passes = PASSES[name]
        if not name.startswith("ppo"):
            continue
        for group in GROUPS:
            for ratio in PROMPT_TO_REPLY:
                own = grouped_rows(shape, group, ratio)
                steps = {
                    how: step_of(passes, own, shape, packing=True, share_prompts=how == "shared")
                    for how in ("packed", "shared")
                }
                beside(f"{name}, G = {group}, P / R = {ratio:g}", steps, repeats)


def main(words: list[str] | None = None) -> None:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(PASSES), default=[])
    parser.add_argument("--share-prompts", action="store_true")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    measure = measure_sharing if options.share_prompts else measure_padding
    measure(SHAPES[options.shape], options.only or list(PASSES), options.repeats)


if __name__ == "__main__":
    main()
