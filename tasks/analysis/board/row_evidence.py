"""The evidence of a run as its parameters and final metrics give it, for rules of comparison."""

import json
from typing import Any

from rlhf_core.digest import digest_json
from rlhf_core.stage_catalogue import EVALUATE, stage_of_prefix
from tasks.analysis.board.run_rows import RunRow
from tasks.analysis.run_evidence import RunEvidence, StageEvidence

MADE_BY = {  # the sections of a recipe that make a model
    "sft": ("model", "data", "seed", "sft", "distributed"),
    "reward": ("model", "data", "seed", "sft", "reward", "distributed"),
}


def seed_of(row: RunRow) -> int:
    """Return the seed of a run."""
    return int(row.params.get("seed", "0"))


def evidence_of(row: RunRow, metric: str) -> RunEvidence:
    """Return what the rules of a comparison read of a run, made from its parameters and metrics.

    A model's digest is that of the recipe keys that make it; a champion is known to no row.
    """
    stage = stage_of_prefix(metric.partition("/")[0])
    name = stage.name if stage else EVALUATE.name
    low, high = row.metrics.get(f"{metric}.low"), row.metrics.get(f"{metric}.high")
    n = row.metrics.get(f"{metric}.n")
    result = {
        "metrics": {metric: row.metrics[metric]},
        "intervals": {metric: (low, high)} if low is not None and high is not None else {},
        "counts": {metric: int(n)} if n is not None else {},
    }
    models = {model: {"digest": _made_by(row, keys)} for model, keys in MADE_BY.items()}
    stages = {
        model: StageEvidence(model, "FINISHED", result={"outputs": {"model": digest}})
        for model, digest in models.items()
    }
    inputs = {"champion": {"digest": row.run_id}}
    config = {"evaluate": _section(row, "evaluate")}
    spec = {"config": config, "inputs": inputs if name == EVALUATE.name else {}}
    stages.setdefault(EVALUATE.name, StageEvidence(EVALUATE.name, "FINISHED", spec=spec))
    own = stages[name] if name in stages else StageEvidence(name, "FINISHED")
    stages[name] = StageEvidence(name, "FINISHED", spec=own.spec, result=own.result | result)
    return RunEvidence(row.name, row.status, {"seed": seed_of(row)}, row.run_id, stages=stages)


def _made_by(row: RunRow, sections: tuple[str, ...]) -> str:
    return digest_json(
        {key: value for key, value in row.params.items() if key.partition(".")[0] in sections}
    )


def _section(row: RunRow, name: str) -> dict[str, Any]:
    """Return a section of the recipe from its flat parameters."""
    made: dict[str, Any] = {}
    for key, text in row.params.items():
        first, *parts = key.split(".")
        if first != name or not parts:
            continue
        place = made
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        place[parts[-1]] = plain_value(text)
    return made


def plain_value(text: str) -> Any:
    """Return the value of a parameter: a number, true, null ..., else its text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
