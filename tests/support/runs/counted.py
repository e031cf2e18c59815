"""Scorers: one writes a line to a file per call, its rank; one is the same for some prompts."""

import os
import zlib
from pathlib import Path


def score(prompts: list[str], replies: list[str]) -> list[float]:
    """The number of letters of each reply."""
    with Path(os.environ["SCORER_CALLS"]).open("a") as file:
        file.write(f"rank {os.environ.get('RANK', '0')}\n")
    return [float(len(reply)) for reply in replies]


def sometimes(prompts: list[str], replies: list[str]) -> list[float]:
    """The length of the reply to about half of the prompts, 0 for the others."""
    solved = [zlib.crc32(prompt.encode()) % 2 for prompt in prompts]
    return [float(len(reply)) * one for reply, one in zip(replies, solved, strict=True)]
