"""A forecast of a run that has not begun, from finished stages of the same work on this machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.rundir import read_result
from rlhf_core.stage_catalogue import PPO, PREPARE, SFT, STAGES
from tasks.execution.usage import Usage, used
from tasks.records.provenance import hardware
from tasks.records.run_record import Record, StageRecord, records
from tasks.records.workspace import Workspace
from tasks.spending.spent import money_of, price_here, prices_of

MOST_RUNS = 5  # the latest ones that the median is of
# keys of a stage's section that change its numbers and not the time that it takes
WITHOUT_TIME = ("gate", "beta", "lr", "policy_lr", "critic_lr", "warmup_ratio", "weight_decay")


@dataclass(frozen=True)
class StageForecast:
    """The forecast of a stage: the median of `runs` finished ones. usage: None of none.

    latest: the newest of those runs. money: None without prices.
    """

    stage: str
    usage: Usage | None = None
    runs: int = 0
    latest: str = ""
    money: float | None = None


def stage_forecasts(recipe: Recipe, workspace: Workspace) -> list[StageForecast]:
    """Return a forecast per stage of a recipe, in their order."""
    here = hardware()
    price = price_here(prices_of(recipe, workspace), here)
    known = [one for one in records(workspace)[::-1] if one.get("hardware") == here]
    found = []
    for stage in filter(lambda name: _is_made(recipe, name), STAGES):
        made = _finished(known, stage, work_of(recipe.model_dump(mode="json"), stage))
        runs = [run for _, run in zip(range(MOST_RUNS), made, strict=False)]
        if not runs:
            found.append(StageForecast(stage))
            continue
        usage = sorted((one for _, one in runs), key=lambda one: one.seconds)[(len(runs) - 1) // 2]
        money = money_of(usage, price) if price else None
        found.append(StageForecast(stage, usage, len(runs), runs[0][0], money))
    return found


def work_of(recipe: dict, stage: str) -> dict:
    """Return the parts of a recipe's JSON values that decide how long a stage takes."""
    section = {k: v for k, v in recipe.get(stage, {}).items() if k not in WITHOUT_TIME}
    members = recipe.get("reward", {}).get("ensemble") if stage == PPO.name else None
    shared = {key: recipe.get(key) for key in ("model", "data", "distributed")}
    return {"section": section, "reward_models": members, **shared}


def _is_made(recipe: Recipe, stage: str) -> bool:
    if stage == PREPARE.name:
        return not Path(recipe.model.base).expanduser().exists()  # a folder is taken as it is
    return recipe.runs(stage) and not (stage == SFT.name and recipe.model.sft)


def _finished(known: list[dict], stage: str, work: dict) -> Iterator[tuple[str, Usage]]:
    """Yield the run's name and the usage of each finished run directory, the newest first."""
    seen = set()
    for values in known:
        if work_of(values["recipe"], stage) != work:
            continue
        record = Record.model_validate(values)
        entry = record.stage(stage)
        if entry and entry.run_dir not in seen and (usage := _usage(entry)):
            seen.add(entry.run_dir)
            yield record.name, usage


def _usage(entry: StageRecord) -> Usage | None:
    """Return what a finished stage took; None for another one, or where its files are gone."""
    result = read_result(entry.run_dir)
    if result is None:
        return None
    found = used(entry.run_dir)
    return found if found.seconds else Usage(result.seconds)
