"""A sweep: pipeline runs that differ in a few keys, and what became of them.

What became of each run is read from the pipelines' own records and run directories; a sweep keeps
no second account of it.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from rlhf_core.digest import code_digest
from rlhf_core.errors import BadInput
from rlhf_core.gates.decide import refused, worst_verdict
from rlhf_core.stage_catalogue import STAGES
from tasks.records.metrics_tail import new_lines
from tasks.records.run_record import Membership, Record, records
from tasks.records.workspace import Workspace
from tasks.sweeps import figures
from tasks.tracking import client as tracking

DEFAULT_METRICS = ("eval/score_gain", "eval/kl_per_response", "eval/independent_gain")
CURVE = ("ppo/kl_per_response", "ppo/score_mean")
REFUSALS = ("GateRefused", "Diverged")
PointState = Literal["finished", "refused", "failed", "not run"]


class SweepMetric(BaseModel):
    """A metric with its 95% interval and sample size, where the stage gave them."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


class SweepPoint(BaseModel):
    """One run to make: its label and the value of each key."""

    label: str
    values: dict[str, Any]


class SweepRow(SweepPoint):
    """One run as it stands. kl, gain: where it lies in the plane of reward and KL (see
    sweep_figures).
    """

    state: PointState = "not run"
    verdict: str = ""
    error: str | None = None
    metrics: dict[str, SweepMetric] = {}
    kl: float | None = None
    gain: SweepMetric | None = None
    on_frontier: bool = False
    run: str | None = None
    run_id: str | None = None
    link: str | None = None
    curve: list[tuple[float, float]] = []  # (KL, gain) by PPO step
    reward_model: str | None = None  # digest: gains by different reward models do not compare


class Sweep(BaseModel):
    """What a sweep was asked for and what came of it; sweeps/<id>/sweep.json holds it."""

    id: str
    name: str
    recipe: str  # the recipe's name: the experiment in MLflow
    keys: list[str]
    until: str
    wanted: list[str] = []  # metrics asked for; none: DEFAULT_METRICS
    tracking_uri: str
    points: list[SweepPoint]
    rows: list[SweepRow] = []
    run_id: str | None = None
    link: str | None = None

    @property
    def metrics(self) -> list[str]:
        """The metrics to show: those asked for, else the default ones that a run has, else the last
        stage's own.
        """
        have = [name for name in DEFAULT_METRICS if any(name in row.metrics for row in self.rows)]
        return self.wanted or have or [STAGES[self.until].headline[0]]

    def membership(self, label: str = "") -> Membership:
        return Membership(id=self.id, name=self.name, keys=self.keys, label=label)

    def folder(self, workspace: Workspace) -> Path:
        return workspace.home / "sweeps" / self.id


# what became of the runs


def records_of(workspace: Workspace, sweep: Sweep) -> dict[str, Record]:
    """The run that stands for each label: the latest that came to an end of its own, else the
    latest.
    """
    found: dict[str, Record] = {}
    for values in records(workspace):
        if (values.get("sweep") or {}).get("id") == sweep.id:
            record = Record.model_validate(values)
            before = found.get(record.sweep.label)
            if before is None or _ended(record) or not _ended(before):
                found[record.sweep.label] = record
    return found


def _ended(record: Record) -> bool:
    return state_of(record) in ("finished", "refused")


def state_of(record: Record) -> PointState:
    """finished, refused by a gate (or by a stage that diverged), or failed (killed, bad input, an
    unexpected end).
    """
    if record.status == "FINISHED":
        return "finished"
    if record.status != "FAILED" or not record.stages:
        return "failed"
    last = record.stages[-1]
    failure = last.run_dir / "failure.json"
    said = (
        json.loads(failure.read_text())["error"]
        if failure.exists() and not last.decisions
        else None
    )
    return "refused" if refused(last.decisions) or said in REFUSALS else "failed"


def settled(record: Record | None, seen: dict[Path, bool]) -> bool:
    """Whether a run need not be made again: it ended by itself, by this code, on bytes that lie
    there unchanged.

    seen: what was found of a path before, so that shared inputs are read once.
    """
    if record is None or not _ended(record):
        return False
    for stage in record.stages:
        spec = stage.spec
        if (
            spec is None
            or spec.code != code_digest()
            or (stage.status == "FINISHED" and stage.result is None)
        ):
            return False
        for item in [
            *spec.inputs.values(),
            *(stage.result.outputs.values() if stage.result else ()),
        ]:
            if item.path not in seen:
                seen[item.path] = _unchanged(item)
            if not seen[item.path]:
                return False
    return True


def _unchanged(item: Any) -> bool:
    try:
        return bool(item.verified())
    except BadInput:
        return False


def gather(workspace: Workspace, sweep: Sweep) -> Sweep:
    """The sweep with its rows as the records say now."""
    found = records_of(workspace, sweep)
    rows = [_row(point, found.get(point.label)) for point in sweep.points]
    for index in figures.frontier([(row.kl, row.gain.value) if row.gain else None for row in rows]):
        rows[index].on_frontier = True
    return sweep.model_copy(update={"rows": rows})


def _row(point: SweepPoint, record: Record | None) -> SweepRow:
    if record is None:
        return SweepRow(**point.model_dump())
    metrics: dict[str, SweepMetric] = {}
    for stage in record.stages:
        if result := stage.result:
            for name, value in result.metrics.items():
                low, high = result.intervals.get(name, (None, None))
                metrics[name] = SweepMetric(
                    value=value, low=low, high=high, n=result.counts.get(name)
                )
    state, curve = state_of(record), _curve(record)
    scored = record.stage("ppo") or record.stage("evaluate")
    reward = scored.spec.inputs.get("reward") if scored and scored.spec else None
    verdict = worst_verdict([decision for stage in record.stages for decision in stage.decisions])
    kl, gain = _place(metrics, curve)
    return SweepRow(
        **point.model_dump(),
        state=state,
        verdict=verdict or "",
        error=record.error,
        metrics=metrics,
        curve=curve,
        kl=kl,
        gain=gain,
        run=record.name,
        run_id=record.run_id,
        link=tracking.link(record, record.run_id),
        reward_model=reward.digest if reward else None,
    )


def _curve(record: Record) -> list[tuple[float, float]]:
    """(KL, reward-model score over that of the first step) by PPO step; training prompts."""
    stage = record.stage("ppo")
    lines = (
        [line["metrics"] for line in new_lines(stage.run_dir / "metrics.jsonl", 0)[0]]
        if stage
        else []
    )
    pairs = [tuple(line[name] for name in CURVE) for line in lines if line.keys() >= {*CURVE}]
    return [(kl, score - pairs[0][1]) for kl, score in pairs]


def _place(
    metrics: dict[str, SweepMetric], curve: list[tuple[float, float]]
) -> tuple[float | None, SweepMetric | None]:
    """KL and reward gain: over the SFT model on held-out prompts; of the last PPO step where
    nothing was evaluated.
    """
    if {"eval/kl_per_response", "eval/score_gain"} <= metrics.keys():
        return metrics["eval/kl_per_response"].value, metrics["eval/score_gain"]
    return (curve[-1][0], SweepMetric(value=curve[-1][1])) if curve else (None, None)
