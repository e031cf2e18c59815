"""One pipeline run as Python sees it, read from this workspace or from MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_core.errors import BadInput

if TYPE_CHECKING:
    from pandas import DataFrame

    from rlhf_core.gates.decide import Decision
    from tasks.analysis.run_evidence import Estimate, RunEvidence
    from tasks.records.run_record import Record


@dataclass(frozen=True)
class Run:
    """One pipeline run: its state, gates, metrics, and evidence per item."""

    source: "Record | RunEvidence" = field(repr=False)

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.state}>"

    def _repr_html_(self) -> str:
        from markupsafe import escape

        table = self.gate_table().drop(columns="reason", errors="ignore")
        return f"<p>{escape(repr(self))}</p>{table.to_html(index=False)}"

    @property
    def name(self) -> str:
        """The name of the run, e.g. quickstart-1a2b3c4-1."""
        return self.source.name

    @cached_property
    def evidence(self) -> "RunEvidence":
        """Everything that the run recorded, in the form that comparisons and reports read."""
        from tasks.analysis.run_evidence import RunEvidence, from_record
        from tasks.tracking.client import link

        if isinstance(self.source, RunEvidence):
            return self.source
        record = self.source
        return from_record(record, lambda run_id: link(record, run_id))

    @property
    def record(self) -> "Record | None":
        """The record of the run in this workspace; None for a run that was read from MLflow."""
        from tasks.records.run_record import Record

        return self.source if isinstance(self.source, Record) else None

    @property
    def state(self) -> str:
        """The state: finished, running, waiting for approval, interrupted, refused, failed, killed.

        It is read anew from the workspace's locks for a run that has not ended.
        """
        from flows.display.status import run_state
        from rlhf_core.gates.decide import refused
        from tasks.records.workspace import Workspace

        if self.record is not None:
            return run_state(Workspace.here(), self.record)
        is_refused = refused([gate for gate in self.gates if not gate.is_contest])
        return "refused" if is_refused else self.source.status.lower()

    @property
    def error(self) -> str | None:
        """The reason why the run did not finish; None for a run that did, or goes on."""
        return self.source.error

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe, with every default."""
        return self.source.recipe

    @property
    def started(self) -> datetime | None:
        """The time of its start, UTC."""
        start = self.source.started
        return None if start is None else datetime.fromtimestamp(start / 1000, UTC)

    @property
    def run_id(self) -> str | None:
        """The id of its MLflow run; None while MLflow has none."""
        return self.source.run_id

    @property
    def link(self) -> str | None:
        """The address of its page in MLflow; None while MLflow has none."""
        return self.evidence.link

    @property
    def report(self) -> Path | None:
        """The file of its HTML report; None for a run without one in this workspace."""
        return self.record.report if self.record else None

    @property
    def promotion(self) -> dict[str, Any] | None:
        """The outcome of its promotion: promoted, reason, version; None without one."""
        return self.evidence.promotion

    @property
    def stages(self) -> list[str]:
        """The names of the stages that it reached, in order."""
        return list(self.evidence.stages)

    # numbers

    @property
    def metrics(self) -> dict[str, float]:
        """The final value of every metric of every stage, by name, e.g. eval/win_rate."""
        return {name: found.value for name, found in self.estimates.items()}

    @property
    def estimates(self) -> "Mapping[str, Estimate]":
        """The same with the 95% interval and the sample size, where a stage recorded them.

        The fields of each: value, low, high, n.
        """
        return self.evidence.metrics

    @property
    def gates(self) -> "list[Decision]":
        """Every gate decision, in the order of the stages, and the contest with the champion.

        The fields of each: stage, gate, value, interval, n, passed, verdict, rule, reason ...
        """
        from rlhf_core.gates.decide import Decision

        if self.record is not None:
            return self.record.verdicts
        return [Decision.model_validate(values) for values in self.evidence.verdicts]

    def gate_table(self) -> "DataFrame":
        """Return the gates as a pandas frame: value, interval, samples, rule, verdict, reason."""
        import pandas

        rows = [
            {
                "stage": gate.stage,
                "gate": gate.gate,
                "quantity": gate.quantity,
                "value": gate.value,
                "low": gate.interval[0] if gate.interval else None,
                "high": gate.interval[1] if gate.interval else None,
                "n": gate.n,
                "rule": gate.rule,
                "verdict": gate.verdict,
                "reason": gate.reason,
            }
            for gate in self.gates
        ]
        return pandas.DataFrame(rows)

    def explain(self, gate: str) -> dict[str, Any]:
        """Return one gate with the paths of its evidence and its worst items, as `rlhf gates` does.

        gate: NAME or STAGE.NAME. Raises ConfigError for a gate that there is not, and BadInput for
        a run that is not of this workspace.
        """
        from tasks.analysis import gate_report

        if self.record is None:
            raise BadInput(
                f"{self.name} was read from MLflow, which has no run directories; expected a run of"
                " this workspace. Use items() for the evidence per item."
            )
        return gate_report.explain(self.record, gate)

    # tables

    def items(self, stage: str = "evaluate", benchmark: str | None = None) -> "DataFrame":
        """Return the evidence per held-out item of a stage as a pandas frame, a row per item.

        stage: reward, dpo, kto or evaluate. benchmark: the items of that benchmark instead. The
        columns are described in rlhf_core/evidence/items.py. Raises BadInput, which names the
        stages that have items, where there are none.
        """
        import pandas

        found = self.evidence.items(stage, benchmark)
        if found is None:
            there = [name for name, one in self.evidence.stages.items() if one.items is not None]
            of = stage if benchmark is None else f"{stage} on benchmark {benchmark!r}"
            raise BadInput(
                f"{self.name} has no items of {of}; expected one of {', '.join(there) or 'none'}."
            )
        return pandas.DataFrame(found)

    def curves(self, stage: str) -> "DataFrame":
        """Return the curves of a stage as a pandas frame: a row per step, a column per metric.

        They are those that the run's report draws. Raises BadInput for a stage that it did not
        reach.
        """
        import pandas

        if stage not in self.evidence.stages:
            raise BadInput(
                f"{self.name} has no stage {stage!r}; expected one of"
                f" {', '.join(self.stages) or 'none: no stage has begun'}."
            )
        curves = self.evidence.stages[stage].curves
        frame = pandas.DataFrame({name: dict(points) for name, points in curves.items()})
        return frame.rename_axis("step")
