"""Tell MLflow what the record and the run directories say. MLflow may be away: nothing stops, the
rest goes later.

Forwarding is idempotent, so that a crash between telling and noting that it was told doubles
nothing: runs are found again by their tag, metrics carry the timestamps of the file (the store
drops an equal point), tables are not appended twice.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)

from rlhf_core.data.splits import SOURCES, SPLITS
from rlhf_core.rundir import Artifact, StageResult
from tasks.execution import resource_usage
from tasks.records.metrics_tail import new_lines
from tasks.records.provenance import ROOT
from tasks.records.run_record import Record, Registration, StageRecord, archive
from tasks.records.workspace import Workspace
from tasks.registry import versions
from tasks.tracking import rendering
from tasks.tracking.client import (
    client_for,
    find_or_create_experiment,
    find_or_create_run,
    find_or_create_sweep_run,
    report_link,
)

BATCH = 100  # parameters, tags in one request; MLflow's limit
METRIC_BATCH = 1000
REPORTS = {".json", ".jsonl", ".html", ".png", ".md"}
LARGEST_REPORT = 10 * 2**20  # bytes


class Forwarder:
    """Brings MLflow up to date with one record; each step is noted in the record once it is done."""

    def __init__(self, workspace: Workspace, record: Record):
        self.workspace, self.record = workspace, record
        self.client = client_for(record.tracking_uri)

    def forward(self) -> None:
        """Everything that is not in MLflow yet. Raises what MLflow raises."""
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

    # the parent run

    def _open(self) -> None:
        record = self.record
        record.experiment_id = find_or_create_experiment(
            self.client, self.workspace, record.recipe["name"]
        )
        tags = {
            "stage": "pipeline",
            "recipe": record.recipe["name"],
            "git_commit": record.commit,
            "git_dirty": str(record.dirty).lower(),
        }
        if record.sweep:
            parent = find_or_create_sweep_run(
                self.client, record.experiment_id, record.sweep, record.recipe["name"]
            )
            tags |= {
                "mlflow.parentRunId": parent,
                "sweep": record.sweep.name,
                "sweep.values": record.sweep.label,
            }
        record.run_id = find_or_create_run(
            self.client, record.experiment_id, (record.id, record.name, record.started), tags
        )
        record.save(self.workspace)
        self._log(
            record.run_id, params=rendering.flatten(record.recipe | {"hardware": record.hardware})
        )
        self.client.log_dict(record.run_id, record.recipe, "recipe.json")
        self.client.log_dict(record.run_id, rendering.metric_units(), "metrics.json")
        for lock in sorted((ROOT / "infra" / "requirements").glob("*.txt")):
            self.client.log_artifact(record.run_id, str(lock), "requirements")
        record.opened = True
        record.save(self.workspace)

    def _close(self) -> None:
        record = self.record
        note = rendering.pipeline_note(record)
        if record.report and record.report.exists():
            self.show_report()
            note += f"\n\n[Report of this run]({report_link(record)})"
        tags = {"mlflow.note.content": rendering.spaced(note), "status_reason": record.error or ""}
        tags["approval"] = record.approval.sentence if record.approval else ""
        self._log(record.run_id, tags={key: value for key, value in tags.items() if value})
        decisions = [
            decision.model_dump(mode="json")
            for stage in record.stages
            for decision in stage.decisions
        ]
        self.client.log_dict(record.run_id, {"decisions": decisions}, "gates.json")
        if record.approval:
            self.client.log_dict(
                record.run_id, record.approval.model_dump(mode="json"), "approval.json"
            )
        if record.promotion:
            self.client.log_dict(record.run_id, record.promotion, "promotion.json")
        self.client.set_terminated(record.run_id, record.status, record.ended)
        record.closed = True
        record.save(self.workspace)

    def show_report(self) -> None:
        """Put the report as it is now among the run's files."""
        self.client.log_artifact(self.record.run_id, str(self.record.report))

    # a stage's run

    def _stage(self, stage: StageRecord) -> None:
        if stage.closed:
            return
        if stage.run_id is None:
            self._open_stage(stage)
        self._metrics(stage)
        if stage.ended:
            self._close_stage(stage)

    def _open_stage(self, stage: StageRecord) -> None:
        tags = {
            "stage": stage.stage,
            "recipe": self.record.recipe["name"],
            "git_commit": self.record.commit,
            "git_dirty": str(self.record.dirty).lower(),
            "cached": str(stage.cached).lower(),
            "run_dir": str(stage.run_dir),
            "mlflow.parentRunId": self.record.run_id,
        }
        what = (f"{self.record.id}/{stage.stage}", stage.stage, stage.started)
        stage.run_id = find_or_create_run(self.client, self.record.experiment_id, what, tags)
        self.record.save(self.workspace)
        spec = stage.spec
        if spec:
            identity = {"run_digest": spec.digest, "code_digest": spec.code}
            self._log(
                stage.run_id,
                params={"seed": str(spec.seed)} | rendering.flatten(spec.config),
                tags=identity,
            )
            self._inputs(stage.run_id, spec.inputs)

    def _inputs(self, run_id: str, inputs: dict[str, Artifact]) -> None:
        datasets = [
            _dataset(name, item) for name, item in inputs.items() if name in {*SOURCES, *SPLITS}
        ]
        if datasets:
            self.client.log_inputs(run_id, datasets)

    def _metrics(self, stage: StageRecord) -> None:
        lines, offset = new_lines(stage.run_dir / "metrics.jsonl", stage.offset)
        samples, system_offset = new_lines(stage.run_dir / resource_usage.FILE, stage.system_offset)
        if not lines and not samples:
            return
        points = [
            Metric(name, value, int(line["time"] * 1000), line["step"])
            for line in [*lines, *samples]
            for name, value in line["metrics"].items()
        ]
        for part in _parts(points, METRIC_BATCH):
            self.client.log_batch(stage.run_id, metrics=part, synchronous=True)
        stage.offset, stage.system_offset = offset, system_offset
        self.record.save(self.workspace)

    def _close_stage(self, stage: StageRecord) -> None:
        lines, _ = new_lines(stage.run_dir / "metrics.jsonl", 0)
        if result := stage.result:
            self._result(stage, result, lines)
        else:
            self._leftovers(stage)
        tags = {
            "verdict": stage.verdict,
            "mlflow.note.content": rendering.spaced(rendering.stage_note(stage)),
            "status_reason": stage.error,
        }
        tags |= {
            f"gate.{decision.gate}": f"{decision.verdict}: {decision.reason}"
            for decision in stage.decisions
        }
        self._log(stage.run_id, tags={key: value for key, value in tags.items() if value})
        if stage.decisions:
            decisions = [decision.model_dump(mode="json") for decision in stage.decisions]
            self.client.log_dict(stage.run_id, {"decisions": decisions}, "gates.json")
        for name in ("spec.json", "stage.log", "failure.json"):
            if (stage.run_dir / name).exists():
                self.client.log_artifact(stage.run_id, str(stage.run_dir / name))
        if figure := rendering.curves(stage.stage, lines):
            self.client.log_figure(stage.run_id, figure, "curves.png")
        self.client.set_terminated(stage.run_id, stage.status, stage.ended)
        stage.closed = True
        self.record.save(self.workspace)

    def _result(self, stage: StageRecord, result: StageResult, lines: list[dict]) -> None:
        last = lines[-1] if lines else {"step": 0, "metrics": {}}
        when = int((stage.run_dir / "result.json").stat().st_mtime * 1000)
        final = rendering.final_metrics(result)
        final |= {
            f"cost/{stage.stage}_{name}": value
            for name, value in resource_usage.costs(stage.run_dir).items()
        }
        model = (
            self._model(stage, result.outputs["model"]).model_id
            if "model" in result.outputs
            else None
        )
        points = [
            Metric(name, value, when, last["step"], model_id=model)
            for name, value in final.items()
            if last["metrics"].get(name) != value
        ]
        self.client.log_batch(stage.run_id, metrics=points, synchronous=True)
        self.client.log_batch(
            self.record.run_id,
            metrics=[Metric(k, v, when, 0) for k, v in final.items()],
            synchronous=True,
        )
        self._log(
            stage.run_id,
            params={f"environment.{key}": value for key, value in result.environment.items()},
        )
        self.client.log_artifact(stage.run_id, str(stage.run_dir / "result.json"))
        for name, relative in result.files.items():
            self._file(stage.run_id, name, stage.run_dir / relative)
        if (
            stage.stage == "evaluate" and "samples" in result.files
        ):  # MLflow's evaluation view compares parent runs
            self._file(self.record.run_id, "samples", stage.run_dir / result.files["samples"])

    def _leftovers(self, stage: StageRecord) -> None:
        """Reports of a stage that refused or failed: they say why. Weights and checkpoints are left
        where they are.
        """
        for path in sorted(stage.run_dir.glob("[!.]*")):
            is_report = path.suffix in REPORTS and path.stat().st_size < LARGEST_REPORT
            if is_report or (path / "index.html").exists():
                self._file(stage.run_id, path.name, path)

    def _file(self, run_id: str, name: str, path: Path) -> None:
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), name)
        elif path.name.endswith(".table.json"):
            table = path.name.replace(".table.json", ".json")
            if table not in {
                item.path for item in self.client.list_artifacts(run_id)
            }:  # log_table appends
                self.client.log_table(run_id, rendering.table_columns(path), table)
        elif path.exists():
            self.client.log_artifact(run_id, str(path))

    # models

    def _model(self, stage: StageRecord, artifact: Artifact) -> LoggedModel:
        """The logged model of these bytes, made when absent; its weights stay where they are until
        it is registered.
        """
        tags = {"digest": artifact.digest, "path": str(artifact.path)}
        found = self.client.search_logged_models(
            [self.record.experiment_id], f"tags.digest = '{artifact.digest}'"
        )
        if found:
            model = found[0]
        else:
            model = self.client.create_logged_model(
                self.record.experiment_id,
                name=stage.stage,
                source_run_id=stage.run_id,
                tags=tags,
                model_type=stage.stage,
            )
            self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        outputs = self.client.get_run(stage.run_id).outputs
        if model.model_id not in {
            output.model_id for output in (outputs.model_outputs if outputs else [])
        }:
            self.client.log_outputs(stage.run_id, [LoggedModelOutput(model.model_id, 0)])
        return model

    def _register(self, registration: Registration) -> None:
        stage = self.record.stage(registration.stage)
        model = self._model(stage, registration.artifact)
        with versions.long_timeout():
            versions.store_model(self.client, model, registration)
        tags = registration.tags | {
            "digest": registration.artifact.digest,
            "pipeline_run_id": self.record.run_id,
        }
        if registration.kind == "policy":
            rewards = [
                item.version
                for item in self.record.registrations
                if item.kind == "reward" and item.version
            ]
            tags |= {"reward_version": rewards[-1]} if rewards else {}
        registration.version = versions.register(self.client, registration, model, tags)
        self.client.set_tag(
            stage.run_id, "registered", f"{registration.model} version {registration.version}"
        )
        self.record.save(self.workspace)

    def _log(
        self,
        run_id: str,
        *,
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        for part in _parts([Param(key, value) for key, value in (params or {}).items()], BATCH):
            self.client.log_batch(run_id, params=part, synchronous=True)
        for part in _parts([RunTag(key, value) for key, value in (tags or {}).items()], BATCH):
            self.client.log_batch(run_id, tags=part, synchronous=True)


def _parts(items: list, size: int) -> Iterable[list]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _dataset(name: str, item: Artifact) -> DatasetInput:
    """A split or source by name and content; MLflow keeps 36 characters of a digest."""
    context = (
        "training"
        if name.endswith("_train")
        else "evaluation"
        if name.endswith("_heldout")
        else "source"
    )
    source = json.dumps({"uri": str(item.path), "digest": item.digest})
    dataset = Dataset(name=name, digest=item.digest[:32], source_type="local", source=source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
