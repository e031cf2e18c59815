"""What is known of one pipeline run, the same whether read from its folders or from MLflow:
comparisons and reports use it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_core.config import ALIGNMENTS
from rlhf_core.evidence.items import Columns, read_items
from rlhf_core.stage_catalogue import STAGES
from tasks.execution import resource_usage
from tasks.records.metrics_tail import new_lines
from tasks.records.provenance import ROOT
from tasks.records.run_record import Record, StageRecord
from tasks.tracking.rendering import CURVES, flatten

Curve = list[tuple[int, float]]  # (step, value)

LOCKS = ROOT / "infra" / "requirements"
STAGE_ORDER = tuple(STAGES)


@dataclass(frozen=True)
class Estimate:
    """A metric's value; its 95% interval and sample size where the stage stated them."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class StageEvidence:
    """One stage of a run. spec, result, decisions: as JSON, so that a record of an older version
    still reads.
    """

    stage: str
    status: str
    cached: bool = False
    verdict: str = ""
    error: str | None = None
    run_id: str | None = None
    spec: dict = field(default_factory=dict)
    result: dict = field(default_factory=dict)
    decisions: list[dict] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    costs: dict[str, float] = field(
        default_factory=dict
    )  # seconds, peak_memory_mib, peak_gpu_memory_mib
    items: Columns | None = None  # items.parquet
    samples: Columns | None = None  # the sample table, of runs without items

    def input(self, name: str) -> str | None:
        """Digest of an input."""
        return self.spec.get("inputs", {}).get(name, {}).get("digest")

    def output(self, name: str) -> str | None:
        """Digest of an output."""
        return self.result.get("outputs", {}).get(name, {}).get("digest")

    @property
    def config(self) -> dict:
        return self.spec.get("config", {})


@dataclass(frozen=True)
class RunEvidence:
    """One pipeline run."""

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
    approval: str = ""  # what a person was asked and answered, one sentence
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
        return [decision for stage in self.stages.values() for decision in stage.decisions]

    def items(self, stage: str) -> Columns | None:
        return self.stages[stage].items if stage in self.stages else None

    def curve(self, metric: str) -> Curve:
        """A metric over steps; empty when it was not logged."""
        return next(
            (stage.curves[metric] for stage in self.stages.values() if metric in stage.curves), []
        )

    def heldout(self, stage: str) -> str | None:
        """Digest of what the metrics '<stage>/...' were measured on."""
        places = {
            "sft": ("sft", "demonstrations"),
            "reward": ("reward", "comparisons"),
            "dpo": ("dpo", "comparisons"),
            "eval": ("evaluate", "prompts"),
        }
        name, split = places.get(stage, ("", ""))
        return self.stages[name].input(f"{split}_heldout") if name in self.stages else None

    def model(self, name: str) -> str | None:
        """Digest of the base, sft, reward or policy model, or of the champion it was compared with."""
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
            getattr(self.stages[s], side)(key) for s, side, key in places[name] if s in self.stages
        )
        return next((digest for digest in found if digest), None)


def estimates(result: dict) -> dict[str, Estimate]:
    """The metrics of a stage's result with their intervals and counts."""
    intervals, counts = result.get("intervals", {}), result.get("counts", {})
    return {
        name: Estimate(value, *intervals.get(name, (None, None)), counts.get(name))
        for name, value in result.get("metrics", {}).items()
    }


def from_record(
    record: Record, link: Callable[[str | None], str | None] = lambda run_id: None
) -> RunEvidence:
    """The evidence of a run in this workspace, from its folders; MLflow is not asked. link: a run
    id's page.
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
        packages=packages(LOCKS.glob("*.txt")),
        promotion=record.promotion,
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
        costs=resource_usage.costs(folder),
        items=items_in(folder / files.get("items", "items.parquet")),
        samples=read_table(folder / files.get("samples", "samples.table.json")),
    )


def _curve(lines: list[dict], name: str) -> Curve:
    return [(line["step"], line["metrics"][name]) for line in lines if name in line["metrics"]]


def read_json(path: Path) -> dict:
    """A JSON object; {} when there is no such file."""
    return json.loads(path.read_text()) if path.exists() else {}


def items_in(path: Path) -> Columns | None:
    """The per-item evidence of a stage, None when it left none."""
    return read_items(path) if path.is_file() else None


def read_table(path: Path) -> Columns | None:
    """A sample table {columns, data} by column, None when there is none."""
    if not path.is_file():
        return None
    value = json.loads(path.read_text())
    return {
        name: [row[place] for row in value["data"]] for place, name in enumerate(value["columns"])
    }


def packages(locks) -> dict[str, str]:
    """'<lock file>: <package>' -> version, of every pin in requirement files."""
    pins = {}
    for lock in sorted(locks):
        for line in lock.read_text().splitlines():
            name, equals, version = line.partition("==")
            if equals and not line.startswith("#"):
                pins[f"{lock.name}: {name.strip()}"] = version.split()[0]
    return pins


def config_of(run: RunEvidence) -> dict[str, str]:
    """The resolved recipe, flat: dotted key -> JSON text."""
    return flatten(run.recipe)
