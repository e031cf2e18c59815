"""The evidence of one pipeline run, in one form whether its folders or MLflow supplied it.

Comparisons and reports read it.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_core.config import ALIGNMENTS
from rlhf_core.data.sources.hub import hub_sources
from rlhf_core.evidence.items import Columns, read_benchmarks, read_items
from rlhf_core.rundir import new_lines
from rlhf_core.stage_catalogue import STAGES, stage_of_prefix
from tasks.execution import usage
from tasks.records.run_record import Record, StageRecord
from tasks.records.shipped import locks
from tasks.tracking.curves import CURVES
from tasks.tracking.rendering import flatten

Curve = list[tuple[int, float]]  # (step, value)

STAGE_ORDER = tuple(STAGES)


@dataclass(frozen=True)
class Estimate:
    """A metric's value; its 95% interval and sample size where the stage recorded them."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval; None where there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class StageEvidence:
    """One stage of a run.

    spec, result and decisions are plain JSON, so that records of older versions can be read too.
    """

    stage: str
    status: str
    cached: bool = False
    verdict: str = ""
    error: str | None = None
    run_id: str | None = None
    digest: str = ""  # of the spec: stages with an equal one share their run directory
    spec: dict = field(default_factory=dict)
    result: dict = field(default_factory=dict)
    decisions: list[dict] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    # seconds, peak_memory_mib, peak_gpu_memory_mib
    costs: dict[str, float] = field(default_factory=dict)
    items: Columns | None = None  # items.parquet
    benchmarks: dict[str, Columns] = field(default_factory=dict)  # the same, by benchmark
    samples: Columns | None = None  # the sample table, of runs without items

    @property
    def inputs(self) -> dict[str, str]:
        """The digest of each input by name; that of a hub data set is its commit."""
        files = {name: item["digest"] for name, item in self.spec.get("inputs", {}).items()}
        hub = hub_sources(self.config)
        return files | {name: source["revision"] for name, source in hub.items()}

    def input(self, name: str) -> str | None:
        """Return the digest of an input; None when the stage had no such input."""
        return self.inputs.get(name)

    def output(self, name: str) -> str | None:
        """Return the digest of an output; None when the stage left no such output."""
        return self.result.get("outputs", {}).get(name, {}).get("digest")

    @property
    def config(self) -> dict:
        """The resolved configuration of the stage."""
        return self.spec.get("config", {})


@dataclass(frozen=True)
class RunEvidence:
    """One pipeline run with its stages."""

    name: str
    status: str
    recipe: dict
    run_id: str | None = None
    link: str | None = None
    error: str | None = None
    commit: str = ""
    dirty: bool = False
    started: int | None = None  # ms since the epoch
    ended: int | None = None
    hardware: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)  # '<lock file>: <package>' -> version
    promotion: dict | None = None
    contest: dict | None = None  # the decision of the contest with the champion
    approval: str = ""  # the question to a person and the answer, one sentence
    stages: dict[str, StageEvidence] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Every final metric of every stage."""
        return {
            name: value
            for stage in self.stages.values()
            for name, value in estimates(stage.result).items()
        }

    @property
    def decisions(self) -> list[dict]:
        """Every gate decision, in the order of the stages."""
        return [decision for stage in self.stages.values() for decision in stage.decisions]

    @property
    def verdicts(self) -> list[dict]:
        """Every gate decision, and the contest with the champion."""
        return [*self.decisions, *([self.contest] if self.contest else [])]

    def items(self, stage: str, benchmark: str | None = None) -> Columns | None:
        """Return a stage's per-item evidence, or that on a benchmark; None when it left none."""
        if stage not in self.stages:
            return None
        found = self.stages[stage]
        return found.items if benchmark is None else found.benchmarks.get(benchmark)

    def curve(self, metric: str) -> Curve:
        """Return a metric over steps; empty when it was not logged."""
        return next(
            (stage.curves[metric] for stage in self.stages.values() if metric in stage.curves), []
        )

    def heldout(self, prefix: str) -> str | None:
        """Return the digest of the data that the metrics '<prefix>/...' were measured on."""
        stage = stage_of_prefix(prefix)
        if stage is None or stage.name not in self.stages:
            return None
        recorded = self.stages[stage.name]
        return recorded.input(stage.heldout) or recorded.input(stage.heldout_else)

    def model(self, name: str) -> str | None:
        """Return the digest of a model: base, sft, reward, policy or champion; None when unknown.

        The champion is the model that the policy was compared with.
        """
        places = {
            "base": (("sft", "input", "model"), ("prepare", "output", "model")),
            "sft": (
                ("sft", "output", "model"),
                ("sft", "input", "given"),
                *((name, "input", "policy") for name in ALIGNMENTS),
            ),
            "reward": (
                ("reward", "output", "model"),
                ("reward", "input", "given"),
                ("ppo", "input", "reward"),
            ),
            "policy": tuple((name, "output", "model") for name in ALIGNMENTS),
            "champion": (("evaluate", "input", "champion"),),
        }
        found = (
            getattr(self.stages[stage], side)(key)
            for stage, side, key in places[name]
            if stage in self.stages
        )
        return next((digest for digest in found if digest), None)


def estimates(result: dict) -> dict[str, Estimate]:
    """Return the metrics of a stage's result with their intervals and counts."""
    intervals, counts = result.get("intervals", {}), result.get("counts", {})
    found = {}
    for name, value in result.get("metrics", {}).items():
        low, high = intervals.get(name, (None, None))
        found[name] = Estimate(value, low, high, counts.get(name))
    return found


def from_record(
    record: Record, link: Callable[[str | None], str | None] = lambda run_id: None
) -> RunEvidence:
    """Return the evidence of a run in this workspace, read from its folders without MLflow.

    link: MLflow run id -> address of its page.
    """
    return RunEvidence(
        name=record.name,
        status=record.status,
        recipe=record.recipe,
        run_id=record.run_id,
        link=link(record.run_id),
        error=record.error,
        commit=record.commit,
        dirty=record.dirty,
        started=record.started,
        ended=record.ended,
        hardware=record.hardware,
        packages=packages(locks()),
        promotion=record.promotion.model_dump(mode="json") if record.promotion else None,
        contest=record.contest.model_dump(mode="json") if record.contest else None,
        approval=record.approval.sentence if record.approval else "",
        stages={stage.stage: _of_folder(stage) for stage in record.stages},
    )


def _of_folder(stage: StageRecord) -> StageEvidence:
    folder = stage.run_dir
    lines, _ = new_lines(folder / "metrics.jsonl", 0)
    result = read_json(folder / "result.json")
    files = result.get("files", {})
    return StageEvidence(
        stage=stage.stage,
        status=stage.status,
        cached=stage.cached,
        verdict=stage.verdict,
        error=stage.error,
        run_id=stage.run_id,
        spec=read_json(folder / "spec.json"),
        result=result,
        decisions=[decision.model_dump(mode="json") for decision in stage.decisions],
        curves={
            name: curve for name in CURVES.get(stage.stage, ()) if (curve := _curve(lines, name))
        },
        costs=usage.costs(folder),
        items=items_in(folder / files.get("items", "items.parquet")),
        benchmarks=benchmarks_in(folder / files.get("items", "items.parquet")),
        samples=read_table(folder / files.get("samples", "samples.table.json")),
    )


def _curve(lines: list[dict], name: str) -> Curve:
    return [(line["step"], line["metrics"][name]) for line in lines if name in line["metrics"]]


def read_json(path: Path) -> dict:
    """Read a JSON object; {} when there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def items_in(path: Path) -> Columns | None:
    """Read the per-item evidence of a stage; None when there is no such file."""
    return read_items(path) if path.is_file() else None


def benchmarks_in(path: Path) -> dict[str, Columns]:
    """Read the evidence on each benchmark's items; {} when there is no such file."""
    return read_benchmarks(path) if path.is_file() else {}


def read_table(path: Path) -> Columns | None:
    """Read a sample table {columns, data} by column; None when there is no such file."""
    if not path.is_file():
        return None
    value = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: [row[place] for row in value["data"]] for place, name in enumerate(value["columns"])
    }


def packages(locks: Iterable[Path]) -> dict[str, str]:
    """Return '<lock file>: <package>' -> version for every pin in requirement files."""
    pins = {}
    for lock in sorted(locks):
        for line in lock.read_text(encoding="utf-8").splitlines():
            name, equals, version = line.partition("==")
            if equals and not line.startswith("#"):
                pins[f"{lock.name}: {name.strip()}"] = version.split()[0]
    return pins


def config_of(run: RunEvidence) -> dict[str, str]:
    """Return the resolved recipe as dotted key -> JSON text."""
    return flatten(run.recipe)
