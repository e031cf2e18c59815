"""A scorer that writes a line to a file per call: its rank."""

import os
from pathlib import Path


def score(prompts: list[str], replies: list[str]) -> list[float]:
    """The number of letters of each reply."""
    with Path(os.environ["SCORER_CALLS"]).open("a") as file:
        file.write(f"rank {os.environ.get('RANK', '0')}\n")
    return [float(len(reply)) for reply in replies]
