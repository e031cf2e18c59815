"""Forwarding to MLflow of what a record and its run directories hold.

MLflow may be away: then nothing stops, and the rest goes later. Forwarding is idempotent, so that
a crash between a request and the note that it was sent doubles nothing: runs are found again by
their tag, metrics carry the timestamps of the file (the store drops an equal point), tables are
not appended twice.
"""

from functools import cached_property
from typing import Any

from mlflow.entities import LoggedModel, Metric

from rlhf_core.data.sources.hub import hub_sources
from rlhf_core.rundir import Artifact, StageResult, new_lines
from rlhf_core.stage_catalogue import EVALUATE
from tasks.execution import usage
from tasks.records.run_record import Record, Registration, StageRecord, archive
from tasks.records.shipped import locks
from tasks.records.workspace import Workspace
from tasks.registry import versions
from tasks.tracking import rendering
from tasks.tracking.account import account_at
from tasks.tracking.client import (
    connect,
    find_or_create_experiment,
    find_or_create_run,
    find_or_create_sweep_run,
    report_link,
)
from tasks.tracking.curves import log_curves
from tasks.tracking.run_writer import RunWriter
from tasks.tracking.spending import send_forecast, send_usage
from tasks.tracking.verdict_traces import VerdictTraces

METRIC_BATCH = 1000  # points in one request; MLflow's limit


class Forwarder:
    """The transfer of one record to MLflow; the record notes each step once it is done."""

    def __init__(self, workspace: Workspace, record: Record):
        self.workspace, self.record = workspace, record
        self.client = connect(record.tracking_uri)

    def forward(self) -> None:
        """Send everything that MLflow does not have yet. Raises what MLflow raises."""
        if not self.record.opened:
            self._open()
        for stage in self.record.stages:
            self._stage(stage)
        for registration in self.record.registrations:
            if registration.version is None:
                self._register(registration)
        if self.record.ended and not self.record.closed:
            self._close()
            archive(self.workspace, self.record)

    # the pipeline's run, parent of its stages' runs

    @property
    def _parent(self) -> RunWriter:
        assert self.record.run_id is not None  # set by _open, the first step
        return RunWriter(self.client, self.record.run_id)

    @property
    def _experiment_id(self) -> str:
        assert self.record.experiment_id is not None  # set by _open, the first step
        return self.record.experiment_id

    def _open(self) -> None:
        record = self.record
        record.experiment_id = experiment_id = find_or_create_experiment(
            self.client, self.workspace, record.recipe["name"]
        )
        tags = self._origin("pipeline")
        if record.sweep:
            tags |= {
                "mlflow.parentRunId": find_or_create_sweep_run(
                    self.client, experiment_id, record.sweep, record.recipe["name"]
                ),
                "sweep": record.sweep.name,
                "sweep.values": record.sweep.label,
            }
        record.run_id = find_or_create_run(
            self.client, experiment_id, (record.id, record.name, record.started), tags
        )
        record.save(self.workspace)
        parent = self._parent
        parent.log_params(rendering.flatten(record.recipe | {"hardware": record.hardware}))
        parent.log_json(record.recipe, "recipe.json")
        for number, file in enumerate(record.recipe_files):
            parent.log_text(file.toml, f"recipe/{number}-{file.path.name}")
        parent.log_json(rendering.metric_units(), "metrics.json")
        for lock in locks():
            self.client.log_artifact(parent.run_id, str(lock), "requirements")
        record.opened = True
        record.save(self.workspace)

    def _origin(self, stage: str) -> dict[str, str]:
        record = self.record
        return rendering.columns(record, self._user) | {
            "stage": stage,
            "recipe": record.recipe["name"],
            "git_commit": record.commit,
            "git_dirty": str(record.dirty).lower(),
        }

    @cached_property
    def _user(self) -> str:
        return account_at(self.record.tracking_uri).name

    def _close(self) -> None:
        record, parent = self.record, self._parent
        note = rendering.pipeline_note(record)
        if record.report and record.report.exists():
            self.show_report()
            note += f"\n\n[Report of this run]({report_link(record)})"
        parent.set_tags(
            {
                "mlflow.note.content": rendering.spaced(note),
                "status_reason": record.error,
                "approval": record.approval.sentence if record.approval else None,
                "contest": record.contest.reason if record.contest else None,
            }
        )
        decisions = [decision for stage in record.stages for decision in stage.decisions]
        parent.log_json(_json_of(decisions), "gates.json")
        if record.approval:
            parent.log_json(record.approval.model_dump(mode="json"), "approval.json")
        if record.contest:
            parent.log_json(record.contest.model_dump(mode="json"), "contest.json")
        if record.promotion:
            parent.log_json(record.promotion.model_dump(mode="json"), "promotion.json")
        self.client.set_terminated(parent.run_id, record.status, record.ended)
        record.closed = True
        record.save(self.workspace)

    def show_report(self) -> None:
        """Store the report, as it is now, among the files of the pipeline's run."""
        self.client.log_artifact(self._parent.run_id, str(self.record.report))

    # a stage's run

    def _stage(self, stage: StageRecord) -> None:
        if stage.closed:
            return
        run = RunWriter(self.client, stage.run_id or self._open_stage(stage))
        self._metrics(stage, run.run_id)
        if stage.forecast and not stage.has_forecast:
            send_forecast(self.client, run.run_id, stage.stage, stage.forecast)
            stage.has_forecast = True
            self.record.save(self.workspace)
        if stage.ended:
            self._close_stage(stage, run)

    def _open_stage(self, stage: StageRecord) -> str:
        tags = self._origin(stage.stage) | {
            "cached": str(stage.cached).lower(),
            "run_dir": str(stage.run_dir),
            "mlflow.parentRunId": self._parent.run_id,
        }
        what = (f"{self.record.id}/{stage.stage}", stage.stage, stage.started)
        stage.run_id = run_id = find_or_create_run(self.client, self._experiment_id, what, tags)
        self.record.save(self.workspace)
        if spec := stage.spec:
            run = RunWriter(self.client, run_id)
            run.log_params({"seed": str(spec.seed)} | rendering.flatten(spec.config))
            run.set_tags({"run_digest": spec.digest, "code_digest": spec.code})
            for writer in (run, self._parent):  # MLflow's list of runs shows the parent's
                writer.log_datasets(spec.inputs, hub_sources(spec.config))
        return run_id

    def _metrics(self, stage: StageRecord, run_id: str) -> None:
        """Send the lines that the stage and its resource sampler have appended since the last."""
        lines, offset = new_lines(stage.run_dir / "metrics.jsonl", stage.offset)
        samples, system_offset = new_lines(stage.run_dir / usage.FILE, stage.system_offset)
        if not lines and not samples:
            return
        points = [
            Metric(name, value, int(line["time"] * 1000), line["step"])
            for line in [*lines, *samples]
            for name, value in line["metrics"].items()
        ]
        for start in range(0, len(points), METRIC_BATCH):
            self.client.log_batch(
                run_id, metrics=points[start : start + METRIC_BATCH], synchronous=True
            )
        stage.offset, stage.system_offset = offset, system_offset
        self.record.save(self.workspace)

    def _close_stage(self, stage: StageRecord, run: RunWriter) -> None:
        lines, _ = new_lines(stage.run_dir / "metrics.jsonl", 0)
        if result := stage.result:
            self._result(stage, result, lines)
        else:
            run.log_reports(stage.run_dir)
        send_usage(self.client, self._parent.run_id, stage)
        tags = {
            "verdict": stage.verdict,
            "mlflow.note.content": rendering.spaced(rendering.stage_note(stage)),
            "status_reason": stage.error,
            "heldout_check": stage.heldout_check.sentence if stage.heldout_check else None,
        }
        gates = {
            f"gate.{d.gate}": f"{d.verdict}: {d.reason}" for d in [*stage.decisions, *stage.limits]
        }
        run.set_tags({**tags, **gates})
        if stage.decisions:
            run.log_json(_json_of(stage.decisions), "gates.json")
        for name in ("spec.json", "stage.log", "failure.json"):
            run.log_path(name, stage.run_dir / name)
        log_curves(run, stage.stage, stage.run_dir, lines)
        self.client.set_terminated(run.run_id, stage.status, stage.ended)
        stage.closed = True
        self.record.save(self.workspace)

    def _result(self, stage: StageRecord, result: StageResult, lines: list[dict]) -> None:
        """Send the final metrics, to the stage's run and its parent, and the files of a result."""
        run, parent = self._run_of(stage), self._parent
        last: dict[str, Any] = lines[-1] if lines else {"step": 0, "metrics": {}}
        when = int((stage.run_dir / "result.json").stat().st_mtime * 1000)
        costs = usage.costs(stage.run_dir)
        final = rendering.final_metrics(result) | {
            f"cost/{stage.stage}_{name}": value for name, value in costs.items()
        }
        output = result.outputs.get("model")
        model_id = self._logged_model(stage, output).model_id if output else None
        points = [
            Metric(name, value, when, last["step"], model_id=model_id)
            for name, value in final.items()
            if last["metrics"].get(name) != value
        ]
        self.client.log_batch(run.run_id, metrics=points, synchronous=True)
        points = [Metric(name, value, when, 0) for name, value in final.items()]
        self.client.log_batch(parent.run_id, metrics=points, synchronous=True)
        run.log_params({f"environment.{key}": text for key, text in result.environment.items()})
        self.client.log_artifact(run.run_id, str(stage.run_dir / "result.json"))
        for name, relative in result.files.items():
            run.log_path(name, stage.run_dir / relative)
        if stage.stage == EVALUATE.name and "samples" in result.files:
            # MLflow's evaluation view compares parent runs
            parent.log_path("samples", stage.run_dir / result.files["samples"])
        judge = self.record.recipe.get("evaluate", {}).get("judge")
        if stage.stage == EVALUATE.name and judge:
            traces = VerdictTraces(self.client, self._experiment_id, run.run_id, judge, when)
            traces.store(result, stage.run_dir)

    def _logged_model(
        self, stage: StageRecord, artifact: Artifact, registered_as: str | None = None
    ) -> LoggedModel:
        """Return the logged model of these bytes, an output of the stage's run and its parent."""
        run = self._run_of(stage)
        model = run.logged_model(self._experiment_id, stage.stage, artifact, registered_as)
        for writer in (run, self._parent):
            writer.log_output(model)
        return model

    def _run_of(self, stage: StageRecord) -> RunWriter:
        assert stage.run_id is not None  # set by _open_stage, a stage's first step
        return RunWriter(self.client, stage.run_id)

    # the registry

    def _register(self, registration: Registration) -> None:
        stage = self.record.stage(registration.stage)
        assert stage is not None  # a model is registered once its stage has ended
        run = self._run_of(stage)
        model = self._logged_model(stage, registration.artifact, registration.model)
        with versions.long_timeout():
            versions.store_model(self.client, model, registration)
        tags = registration.tags | {
            "digest": registration.artifact.digest,
            "pipeline_run_id": self._parent.run_id,
        }
        if registration.kind == "policy":
            rewards = [
                item.version
                for item in self.record.registrations
                if item.kind == "reward" and item.version
            ]
            tags |= {"reward_version": rewards[-1]} if rewards else {}
        account = account_at(self.record.tracking_uri)
        tags |= {"registered_by": account.name} if account.is_authenticated else {}
        registration.version = versions.register(self.client, registration, model, tags)
        self.client.set_tag(
            run.run_id, "registered", f"{registration.model} version {registration.version}"
        )
        self.record.save(self.workspace)


def _json_of(decisions: list) -> dict[str, list]:
    return {"decisions": [decision.model_dump(mode="json") for decision in decisions]}
