"""Seconds of forward and backward passes with torch.compile beside those without.

    .venv/stage/bin/python infra/bench/compiled.py [--shape small] [--repeats 5]

One process, one model: transformers' Llama of SmolLM2's shape, random weights, float32, padded
rows. Ragged rows have another length in each microbatch (`dynamic=True`). Prints the seconds until
the first compiled step is done, and the ratio of compiled to eager steps, taken in turn.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from shapes import SHAPES, Shape, row_lengths
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape.model)).train()
    lengths = row_lengths(shape, shape.demonstrations, seed=0)
    for kind, row_tokens in (("equal", [shape.equal] * len(lengths)), ("ragged", lengths)):
        batches = _batches(shape, row_tokens)
        torch._dynamo.reset()
        compiled = torch.compile(model, dynamic=kind == "ragged")
        first = _seconds(compiled, batches)
        _seconds(model, batches)  # warms the allocator up
        ratios = [
            _seconds(compiled, batches) / _seconds(model, batches) for _ in range(options.repeats)
        ]
        print(
            f"{kind}: first step {first:.0f} s, compiled / eager {statistics.median(ratios):.2f}"
            f" [{min(ratios):.2f}, {max(ratios):.2f}] (load {os.getloadavg()[0]:.1f})",
            flush=True,
        )


def _batches(shape: Shape, row_tokens: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Return token ids and attention mask of each microbatch, padded to its longest row."""
    found = []
    for begin in range(0, len(row_tokens), shape.micro_rows):
        lengths_B = torch.tensor(row_tokens[begin : begin + shape.micro_rows])
        longest = int(lengths_B.max())
        ids_BL = torch.randint(0, shape.model["vocab_size"], (len(lengths_B), longest))
        found.append((ids_BL, (torch.arange(longest) < lengths_B[:, None]).long()))
    return found


def _seconds(model: Callable, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Return the seconds of one step: the passes of all microbatches."""
    begin = time.perf_counter()
    for ids_BL, mask_BL in batches:
        labels_BL = ids_BL.masked_fill(mask_BL == 0, -100)
        loss = model(
            input_ids=ids_BL, attention_mask=mask_BL, labels=labels_BL, use_cache=False
        ).loss
        loss.backward()
    for weight in model.parameters():
        weight.grad = None
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
