"""The training splits that are recorded for a model, and the prompts that these hold.

Records are looked for in the run directories of this workspace, then in MLflow. A record that
cannot be read, and an MLflow that does not answer, are reasons why something is not known. They
take nothing away from what other records say.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.data.splits import TRAIN_PROMPTS, load_split, prompt_keys
from rlhf_core.rundir import Artifact
from rlhf_core.stage_catalogue import PREPARE, SFT, VALIDATE
from tasks.analysis import mlflow_runs
from tasks.records.workspace import Workspace
from tasks.tracking.client import brief

if TYPE_CHECKING:
    from mlflow import MlflowClient

# inputs that the model which a stage makes descends from
PARENTS = ("model", "policy", "reward", "start")


@dataclass(frozen=True)
class Making:
    """One stage that made a model: its inputs' digests by name."""

    stage: str
    inputs: dict[str, str]


@dataclass
class TrainingData:
    """The training splits behind a model, by (name, digest), and what of them is not known."""

    splits: set[tuple[str, str]] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)


class Origins:
    """The records of who made which model, and of the prompts of training splits.

    client: called for MLflow's client, once the workspace does not know a model. An error of MLflow
    stands in `mlflow_error`; MLflow is not asked again then.
    """

    def __init__(self, workspace: Workspace, client: Callable[[], "MlflowClient"]):
        self._client = client
        self.mlflow_error: Exception | None = None
        self._makings: dict[str, list[Making]] = {}  # by digest of the model
        self._files: dict[str, list[Path]] = {}  # by digest of a training split: with its prompts
        self._prompts: dict[str, frozenset[str]] = {}  # by digest of a training split: those read
        self._asked: set[str] = set()  # digests of models that MLflow was asked for
        self._unreadable: list[str] = []  # run directories without a readable record, and why
        for file in sorted(workspace.runs.glob("*/result.json")):
            try:
                self._learn_folder(file.parent)
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                self._unreadable.append(f"{file.parent} cannot be read: {brief(error)}")

    def training_data(self, digest: str) -> TrainingData:
        """Return the training splits behind a model: its own, and those of its parents.

        A base model has none: what it was pretrained on is recorded nowhere.
        """
        found, seen, queue = TrainingData(), set[str](), [(digest, True)]
        while queue:
            model, must_be_known = queue.pop()
            if model in seen:
                continue
            seen.add(model)
            makings = self._makings_of(model)
            if not makings and must_be_known:
                found.unknown += self._why_unknown(model)
            for making in makings:
                found.splits |= {
                    (name, split)
                    for name, split in making.inputs.items()
                    if name.endswith("_train")
                }
                queue += [
                    (making.inputs[name], (making.stage, name) != (SFT.name, "model"))
                    for name in PARENTS
                    if name in making.inputs
                ]
        return found

    def prompts(self, split_digest: str, model: str) -> tuple[frozenset[str] | None, list[str]]:
        """Return the keys of a training split's prompts, and why they are None where they are.

        model: digest of the model whose data it is. MLflow is asked for it where the workspace has
        cleared the split away, or holds it damaged.
        """
        reasons = []
        for file in self._files.get(split_digest, []):
            if split_digest in self._prompts:
                break
            try:
                self._read_prompts(file, split_digest)
            except Exception as error:  # damaged in any way, or removed a moment ago
                reasons.append(f"cannot be read: {brief(error)}, in {file}")
        if split_digest not in self._prompts:
            self._ask_mlflow(model)
        if split_digest in self._prompts:
            return self._prompts[split_digest], []
        return None, (reasons or ["has no copy left"]) + self._mlflow_reason()

    def _read_prompts(self, file: Path, split_digest: str) -> None:
        if file.name == TRAIN_PROMPTS:
            self._prompts |= dict(_listed(file))
        else:
            Artifact(path=file, digest=split_digest).verified()  # it may be cut after a line
            self._prompts[split_digest] = prompt_keys(load_split(file))

    def _makings_of(self, digest: str) -> list[Making]:
        if digest not in self._makings:
            self._ask_mlflow(digest)
        return self._makings.get(digest, [])

    def _why_unknown(self, model: str) -> list[str]:
        here = "here" if self.mlflow_error else "here or in MLflow"
        return [f"no run {here} made {model[:12]}", *self._mlflow_reason(), *self._unreadable]

    def _mlflow_reason(self) -> list[str]:
        error = self.mlflow_error
        return [f"MLflow does not answer: {brief(error)}"] if error else []

    def _learn_folder(self, folder: Path) -> None:
        """Add what a run directory made; releases before this one list no prompts."""
        spec, result = _read(folder / "spec.json"), _read(folder / "result.json")
        self._learn(spec, result)
        for name, item in result.get("outputs", {}).items():
            files = [folder / TRAIN_PROMPTS, folder / item["path"]]
            if name.endswith("_train"):
                there = [file for file in files if file.is_file()]
                self._files[item["digest"]] = self._files.get(item["digest"], []) + there

    def _learn(self, spec: dict, result: dict) -> None:
        """Add the model that a stage made, if it made one and left both records."""
        if not spec:
            return
        inputs = {name: item["digest"] for name, item in spec.get("inputs", {}).items()}
        for name, item in result.get("outputs", {}).items():
            if name in ("model", "adapter"):
                made = self._makings.setdefault(item["digest"], [])
                made.append(Making(spec["stage"], {} if spec["stage"] == PREPARE.name else inputs))

    def _ask_mlflow(self, digest: str) -> None:
        """Learn from the runs in which a registered model was made, once per model."""
        if digest in self._asked or self.mlflow_error:
            return
        self._asked.add(digest)
        try:
            self._learn_from_mlflow(self._client(), digest)
        except Exception as error:  # of many kinds
            self.mlflow_error = error

    def _learn_from_mlflow(self, client: "MlflowClient", digest: str) -> None:
        versions = client.search_model_versions(f"tags.digest = '{digest}'")
        runs = {v.tags["pipeline_run_id"] for v in versions if "pipeline_run_id" in v.tags}
        for run_id in sorted(runs):
            evidence = mlflow_runs.read(client, client.get_run(run_id), full=False)
            for stage in evidence.stages.values():
                self._learn(stage.spec, stage.result)
                if stage.stage == VALIDATE.name and stage.run_id:
                    self._prompts |= _stored_prompts(client, stage.run_id)


def _stored_prompts(client: "MlflowClient", run_id: str) -> dict[str, frozenset[str]]:
    if TRAIN_PROMPTS not in {item.path for item in client.list_artifacts(run_id)}:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        return dict(_listed(Path(client.download_artifacts(run_id, TRAIN_PROMPTS, folder))))


def _listed(file: Path) -> Iterator[tuple[str, frozenset[str]]]:
    for split in json.loads(file.read_text(encoding="utf-8")).values():
        yield split["digest"], frozenset(split["prompts"])


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
