"""TRL's SFTTrainer or RewardTrainer, measured: `trl_supervised.py STAGE FOLDER OPTIONS`.

Runs in TRL's environment. OPTIONS is JSON: kind of rows, shape and further arguments of the
trainer's configuration. Every step takes every row, micro_rows (or as many pairs' rows) at once.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from shapes import SHAPES, Shape
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from turns import PipedTurns, Turns

STEPS = 20


class Steps(TrainerCallback):
    """Reports each optimizer step and waits for the next turn."""

    def __init__(self, turns: Turns):
        self._turns = turns

    def on_step_end(self, *args: Any, **options: Any) -> None:
        """Report the step that is done."""
        self._turns.done()


def arguments(shape: Shape, options: dict, out: str, *, rows: int, at_once: int) -> dict[str, Any]:
    """Return the arguments that both configurations share."""
    return {
        "output_dir": out,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": rows // at_once,
        "max_steps": STEPS,
        "learning_rate": 1e-6,
        "max_length": shape.longest + 1,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,  # our stages log every step too
        "seed": 1,
    } | options["more"]


def sft_trainer(
    folder: Path, rows: list[dict], shape: Shape, options: dict, out: str, turns: Turns
):
    """Return the trainer of demonstrations: the loss is over the replies."""
    dataset = Dataset.from_dict(
        {
            "input_ids": [row["prompt"] + row["response"] for row in rows],
            "completion_mask": [
                [0] * len(row["prompt"]) + [1] * len(row["response"]) for row in rows
            ],
        }
    )
    config = SFTConfig(
        completion_only_loss=True,
        **arguments(shape, options, out, rows=len(rows), at_once=shape.micro_rows),
    )
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        args=config,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Steps(turns)],
    )


def reward_trainer(
    folder: Path, rows: list[dict], shape: Shape, options: dict, out: str, turns: Turns
):
    """Return the trainer of comparisons; micro_rows rows at once are half as many pairs."""
    dataset = Dataset.from_dict(
        {f"{side}_ids": [row[side] for row in rows] for side in ("chosen", "rejected")}
    )
    at_once = max(1, shape.micro_rows // 2)
    return RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(
            folder / "reward", dtype=torch.float32
        ),
        args=RewardConfig(**arguments(shape, options, out, rows=len(rows), at_once=at_once)),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(folder / "reward"),
        callbacks=[Steps(turns)],
    )


def main() -> None:
    """Run the trainer turn by turn."""
    stage, folder, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    rows, make = (
        tokens[f"{stage}_{options['kind']}"],
        {"sft": sft_trainer, "reward": reward_trainer}[stage],
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as out:
        make(folder, rows, SHAPES[options["shape"]], options, out, PipedTurns()).train()


if __name__ == "__main__":
    main()
