"""A sweep: pipeline runs that differ in a few keys, with the state of each run.

The state is read from the records and run directories of the pipeline runs; a sweep keeps no copy
of its own.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from rlhf_core.digest import code_digest
from rlhf_core.errors import BadInput
from rlhf_core.gates.decide import refused, worst_verdict
from rlhf_core.rundir import Artifact, new_lines
from rlhf_core.stage_catalogue import STAGES
from tasks.analysis.significance import Coverage, Significance
from tasks.records.run_record import Membership, Record, StageRecord, records
from tasks.records.workspace import Workspace
from tasks.sweeps import figures
from tasks.tracking import client as tracking

DEFAULT_METRICS = ("eval/score_gain", "eval/kl_per_response", "eval/independent_gain")
KL, SCORE = "ppo/kl_per_response", "ppo/score_mean"  # of the curve
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
    """One run with its state and results."""

    state: PointState = "not run"
    verdict: str = ""
    error: str | None = None
    metrics: dict[str, SweepMetric] = {}
    kl: float | None = None  # with gain: its point in the figure of reward against KL
    gain: SweepMetric | None = None
    on_frontier: bool = False
    run: str | None = None
    run_id: str | None = None
    link: str | None = None
    curve: list[tuple[float, float]] = []  # (KL, gain) by PPO step
    reward_model: str | None = None  # digest: gains by different reward models do not compare


class SweepSpread(BaseModel):
    """A metric of one setting over its seeds. covers: what the 95% interval is over."""

    setting: str
    metric: str
    mean: float
    sd: float | None
    seeds: int
    low: float | None
    high: float | None
    covers: Coverage


class SweepFinding(BaseModel):
    """The difference of one setting from the first one in one metric (`Finding`)."""

    setting: str
    baseline: str
    metric: str
    verdict: Significance
    difference: float | None
    low: float | None
    high: float | None
    n: int | None
    n_prompts: int | None
    p_value: float | None
    p_adjusted: float | None
    covers: Coverage
    better: bool | None
    method: str
    note: str


class Sweep(BaseModel):
    """The request and the results of a sweep; stored in sweeps/<id>/sweep.json."""

    id: str
    name: str
    recipe: str  # the recipe's name: the experiment in MLflow
    keys: list[str]
    until: str
    wanted: list[str] = []  # metrics asked for; none: DEFAULT_METRICS
    tracking_uri: str
    points: list[SweepPoint]
    rows: list[SweepRow] = []
    spreads: list[SweepSpread] = []  # of settings with several seeds, once the runs have ended
    findings: list[SweepFinding] = []
    run_id: str | None = None
    link: str | None = None

    @property
    def metrics(self) -> list[str]:
        """The metrics to show.

        They are those asked for, else the default ones that a run has, else the last stage's
        headline metric.
        """
        have = [name for name in DEFAULT_METRICS if any(name in row.metrics for row in self.rows)]
        return self.wanted or have or [STAGES[self.until].headline[0]]

    def membership(self, label: str = "") -> Membership:
        """Return the membership that the record of a run of this sweep holds."""
        return Membership(id=self.id, name=self.name, keys=self.keys, label=label)

    def folder(self, workspace: Workspace) -> Path:
        """Return the folder of this sweep in the workspace."""
        return workspace.home / "sweeps" / self.id


# state of the runs


def records_of(workspace: Workspace, sweep: Sweep) -> dict[str, Record]:
    """Return the run for each label: the latest that finished or was refused, else the latest."""
    found: dict[str, Record] = {}
    for values in records(workspace):
        if (member := values.get("sweep") or {}).get("id") == sweep.id:
            record, label = Record.model_validate(values), member["label"]
            before = found.get(label)
            if before is None or _has_result(record) or not _has_result(before):
                found[label] = record
    return found


def _has_result(record: Record) -> bool:
    return state_of(record) in ("finished", "refused")


def state_of(record: Record) -> PointState:
    """Return the state of a run: finished, refused or failed.

    Refused: by a gate, or by a stage that diverged. Failed: killed, bad input, an unexpected end.
    """
    if record.status == "FINISHED":
        return "finished"
    if record.status != "FAILED" or not record.stages:
        return "failed"
    last = record.stages[-1]
    failure = last.run_dir / "failure.json"
    error = None
    if failure.exists() and not last.decisions:
        error = json.loads(failure.read_text(encoding="utf-8"))["error"]
    return "refused" if refused(last.decisions) or error in REFUSALS else "failed"


def is_settled(record: Record | None, seen: dict[Path, bool]) -> bool:
    """Check that a run need not be repeated.

    It finished or was refused, with this code, and its files are unchanged. seen: path ->
    unchanged; it is filled here, so that shared inputs are read once.
    """
    if record is None or not _has_result(record):
        return False
    return all(_is_current(stage, seen) for stage in record.stages)


def _is_current(stage: StageRecord, seen: dict[Path, bool]) -> bool:
    spec = stage.spec
    if spec is None or spec.code != code_digest():
        return False
    result = stage.result
    if stage.status == "FINISHED" and result is None:
        return False
    for item in [*spec.inputs.values(), *(result.outputs.values() if result else ())]:
        if item.path not in seen:
            seen[item.path] = _is_unchanged(item)
        if not seen[item.path]:
            return False
    return True


def _is_unchanged(item: Artifact) -> bool:
    try:
        return bool(item.verified())
    except BadInput:
        return False


def gather(workspace: Workspace, sweep: Sweep) -> Sweep:
    """Return the sweep with rows that are read from the records now."""
    found = records_of(workspace, sweep)
    rows = [_row(point, found.get(point.label)) for point in sweep.points]
    for index in figures.frontier([(row.kl, row.gain.value) if row.gain else None for row in rows]):
        rows[index].on_frontier = True
    return sweep.model_copy(update={"rows": rows})


def _row(point: SweepPoint, record: Record | None) -> SweepRow:
    if record is None:
        return SweepRow(**point.model_dump())
    metrics, curve = metrics_of(record), _curve(record)
    scored = record.stage("ppo") or record.stage("evaluate")
    reward = scored.spec.inputs.get("reward") if scored and scored.spec else None
    verdict = worst_verdict([decision for stage in record.stages for decision in stage.decisions])
    kl, gain = _place(metrics, curve)
    return SweepRow(
        **point.model_dump(),
        state=state_of(record),
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


def metrics_of(record: Record) -> dict[str, SweepMetric]:
    """Return the final metrics of a run's stages, with intervals and sample sizes."""
    metrics: dict[str, SweepMetric] = {}
    for stage in record.stages:
        if result := stage.result:
            for name, value in result.metrics.items():
                low, high = result.intervals.get(name, (None, None))
                n = result.counts.get(name)
                metrics[name] = SweepMetric(value=value, low=low, high=high, n=n)
    return metrics


def _curve(record: Record) -> list[tuple[float, float]]:
    """Return (KL, reward-model score over that of the first step) by PPO step; training prompts."""
    stage = record.stage("ppo")
    if stage is None:
        return []
    lines = [line["metrics"] for line in new_lines(stage.run_dir / "metrics.jsonl", 0)[0]]
    pairs = [(line[KL], line[SCORE]) for line in lines if line.keys() >= {KL, SCORE}]
    return [(kl, score - pairs[0][1]) for kl, score in pairs]


def _place(
    metrics: dict[str, SweepMetric], curve: list[tuple[float, float]]
) -> tuple[float | None, SweepMetric | None]:
    """Return KL and reward gain over the SFT model on held-out prompts.

    Where nothing was evaluated they are those of the last PPO step.
    """
    if {"eval/kl_per_response", "eval/score_gain"} <= metrics.keys():
        return metrics["eval/kl_per_response"].value, metrics["eval/score_gain"]
    return (curve[-1][0], SweepMetric(value=curve[-1][1])) if curve else (None, None)
