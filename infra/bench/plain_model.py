"""The plain model, forward and backward, measured: `plain_model.py STAGE FOLDER SHAPE`.

It takes the rows of equal length, micro_rows at once, with transformers' own loss (SFT) or the
log-sigmoid of the difference (reward). It takes no optimizer step: that is the stages' own work.
"""

import json
import sys
from pathlib import Path

import torch
from shapes import SHAPES, Shape
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from turns import PipedTurns, Turns


def run(stage: str, folder: Path, shape: Shape, turns: Turns) -> None:
    """Go through all rows of a step in each turn. Raises Enough as the turns do."""
    rows = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))[f"{stage}_equal"]
    if stage == "sft":
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        ids_BL = torch.tensor([row["prompt"] + row["response"] for row in rows])
    else:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder / "reward", dtype=torch.float32
        )
        ids_BL = torch.tensor([row[side] for row in rows for side in ("chosen", "rejected")])
    model.train()
    while True:
        for part_BL in ids_BL.split(shape.micro_rows):
            loss_of(stage, model, part_BL).backward()
        turns.done()
        model.zero_grad()


def loss_of(stage: str, model: PreTrainedModel, ids_BL: Tensor) -> Tensor:
    """Return the loss of some rows: cross-entropy, or Bradley and Terry's of neighbours."""
    if stage == "sft":
        return model(input_ids=ids_BL, labels=ids_BL, use_cache=False).loss
    scores_B = model(input_ids=ids_BL, use_cache=False).logits.squeeze(-1)
    return -torch.nn.functional.logsigmoid(scores_B[0::2] - scores_B[1::2]).mean()


def main() -> None:
    """Run turn by turn."""
    stage, folder, shape = sys.argv[1:]
    run(stage, Path(folder), SHAPES[shape], PipedTurns())


if __name__ == "__main__":
    main()
