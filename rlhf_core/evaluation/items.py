"""The items of an evaluation, and the samples and figure for people to look at."""

import json
from pathlib import Path

from torch import Tensor

from rlhf_core.evaluation.ngrams import repetition
from rlhf_core.evaluation.replies import Replies, Setup
from rlhf_core.evaluation.scoring import ScoresByModel
from rlhf_core.evidence.figures import score_figure
from rlhf_core.evidence.items import (
    Columns,
    last_user_turn,
    prompt_id,
    with_benchmarks,
    write_items,
)
from rlhf_core.rundir import Output


def item_columns(
    setup: Setup,
    replies: dict[str, Replies],
    scores: list[ScoresByModel],
    independent: ScoresByModel,
) -> Columns:
    """Return the columns of items.parquet: prompts, and for each model replies and scores.

    scores: by reward model, the main one first.
    """
    columns: Columns = {
        "prompt_id": [prompt_id(row["prompt"]) for row in setup.rows],
        "prompt": [last_user_turn(row["prompt"]) for row in setup.rows],
    }
    for name, replied in replies.items():
        columns |= {
            f"{name}_reply": replied.texts,
            f"{name}_score": scores[0][name].tolist(),
            f"{name}_tokens": replied.tokens,
            f"{name}_ended": replied.ended,
            f"{name}_repetition": [repetition(s.response) for s in replied.sequences],
        }
        columns |= {
            f"{name}_score_{m}": further[name].tolist()
            for m, further in enumerate(scores[1:], start=2)
        }
        if independent:
            columns[f"{name}_independent"] = independent[name].tolist()
    return columns


def member_columns(scores: dict[str, Tensor]) -> Columns:
    """Return the scores of each member of the main reward model, when it is an ensemble."""
    many = {name: scores_MN for name, scores_MN in scores.items() if len(scores_MN) > 1}
    return {
        f"{name}_member_{m}": s.tolist()
        for name, scores_MN in many.items()
        for m, s in enumerate(scores_MN, start=1)
    }


def write_samples(
    columns: Columns,
    benchmarks: dict[str, Columns],
    replies: dict[str, Replies],
    scores: ScoresByModel,
    count: int,
    folder: Path,
) -> Output:
    """Write items.parquet, a table of the first `count` items and a figure of the scores.

    benchmarks: the further rows of items.parquet, by benchmark.
    """
    shown = ["prompt", *(f"{name}_{kind}" for name in replies for kind in ("reply", "score"))]
    shown += [f"{name}_independent" for name in replies if f"{name}_independent" in columns]
    rounded = [
        [round(v, 4) if isinstance(v, float) else v for v in columns[name][:count]]
        for name in shown
    ]
    data = [list(row) for row in zip(*rounded, strict=True)]
    table = json.dumps({"columns": shown, "data": data}, ensure_ascii=False, indent=1)
    (folder / "samples.table.json").write_text(table, encoding="utf-8")
    score_figure(scores["policy"], scores["sft"], folder / "scores.png")
    return Output(
        files={"samples": "samples.table.json", "scores": "scores.png"}
        | write_items(folder, with_benchmarks(columns, benchmarks))
    )
