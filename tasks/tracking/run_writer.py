"""One run in MLflow, written in requests that keep to MLflow's limits."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Param,
    RunTag,
)

from rlhf_core.data.splits import SPLITS, is_source
from rlhf_core.rundir import Artifact
from tasks.registry import versions
from tasks.tracking.rendering import table_columns

BATCH = 100  # parameters or tags in one request; MLflow's limit
REPORTS = {".json", ".jsonl", ".html", ".png", ".md"}
LARGEST_REPORT = 10 * 2**20  # bytes


class RunWriter:
    """The parameters, tags, files, datasets and models of one run in MLflow."""

    def __init__(self, client: MlflowClient, run_id: str):
        self.client, self.run_id = client, run_id

    def log_params(self, params: dict[str, str]) -> None:
        """Log parameters."""
        for part in _batches([Param(key, value) for key, value in params.items()]):
            self.client.log_batch(self.run_id, params=part, synchronous=True)

    def set_tags(self, tags: Mapping[str, str | None]) -> None:
        """Set tags; leave out those without a value."""
        for part in _batches([RunTag(key, value) for key, value in tags.items() if value]):
            self.client.log_batch(self.run_id, tags=part, synchronous=True)

    def log_json(self, value: dict[str, Any], name: str) -> None:
        """Store a JSON value as the file `name`."""
        self.client.log_dict(self.run_id, value, name)

    def log_text(self, text: str, name: str) -> None:
        """Store a text as the file `name`."""
        self.client.log_text(self.run_id, text, name)

    def log_datasets(self, inputs: dict[str, Artifact], hub: dict[str, dict[str, Any]]) -> None:
        """Log those of a stage's inputs that are data: splits, sources, and hub data sets."""
        datasets = [
            *(
                _dataset(name, item)
                for name, item in inputs.items()
                if is_source(name) or name in SPLITS
            ),
            *(_hub_dataset(name, source) for name, source in hub.items()),
        ]
        if datasets:
            self.client.log_inputs(self.run_id, datasets)

    def log_path(self, name: str, path: Path) -> None:
        """Store a file, a folder under `name`, or the rows of a *.table.json as a table."""
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), name)
        elif path.name.endswith(".table.json"):
            table = path.name.replace(".table.json", ".json")
            stored = {item.path for item in self.client.list_artifacts(self.run_id)}
            if table not in stored:  # log_table appends
                self.client.log_table(self.run_id, table_columns(path), table)
        elif path.exists():
            self.client.log_artifact(self.run_id, str(path))

    def log_reports(self, run_dir: Path) -> None:
        """Store the reports of a stage that refused or failed, which say why.

        Weights and checkpoints stay where they are.
        """
        for path in sorted(run_dir.glob("[!.]*")):
            is_report = path.suffix in REPORTS and path.stat().st_size < LARGEST_REPORT
            if is_report or (path / "index.html").exists():
                self.log_path(path.name, path)

    def logged_model(
        self, experiment_id: str, name: str, artifact: Artifact, registered_as: str | None = None
    ) -> LoggedModel:
        """Return the logged model of these bytes, created as a model of this run when absent.

        Its weights stay where they are until the model is registered. registered_as: a registered
        model, whose versions share no files with those of another: their records differ.
        """
        found = self.client.search_logged_models(
            [experiment_id],
            f"tags.digest = '{artifact.digest}'",
            order_by=[{"field_name": "creation_timestamp", "ascending": True}],
        )
        for model in found:
            if registered_as is None or not versions.is_taken(self.client, model, registered_as):
                return model
        model = self.client.create_logged_model(
            experiment_id,
            name=name,
            source_run_id=self.run_id,
            tags={"digest": artifact.digest, "path": str(artifact.path)},
            model_type=name,
        )
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return model

    def log_output(self, model: LoggedModel) -> None:
        """Note a logged model as an output of this run, once."""
        outputs = self.client.get_run(self.run_id).outputs
        known = {output.model_id for output in (outputs.model_outputs if outputs else [])}
        if model.model_id not in known:
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, 0)])


def _batches(items: list) -> Iterable[list]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _dataset(name: str, item: Artifact) -> DatasetInput:
    """Return a split or source by name and content; MLflow keeps 36 characters of a digest."""
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


def _hub_dataset(name: str, source: dict[str, Any]) -> DatasetInput:
    """Return a data set of the hub by name and commit, as MLflow's own source of such data."""
    names = {"path": "path", "config_name": "config", "split": "split", "revision": "revision"}
    place = {theirs: source.get(ours) for theirs, ours in names.items()}
    dataset = Dataset(
        name=name,
        digest=source["revision"][:32],
        source_type="hugging_face",
        source=json.dumps(place),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "source")])
