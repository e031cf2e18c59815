"""The files of a registered version: a standard MLflow model with its verdicts and its card.

MLmodel, <kind>_model.py, requirements.txt, ...
                   as mlflow.pyfunc.save_model writes them (models from code, no pickles)
rlhf_core_<digest>.zip  the modules of this project that the code imports
artifacts/model/   the Hugging Face folder, hard links into the run directory
gates.json         every gate decision about these bytes
approval.json      the approval that their recipe requires, with the request and the answer
README.md          the model card
"""

import contextlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlparse

import mlflow
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array, Object, Property
from pydantic import TypeAdapter, ValidationError

from rlhf_core.digest import digest_path
from rlhf_core.errors import BadInput
from rlhf_core.file_modes import usual_mode
from rlhf_core.gates.decide import Decision
from rlhf_core.modeling.pickles import pickle_files
from rlhf_core.rundir import write_atomically
from tasks.execution.stage_calls import ask
from tasks.records.approval_record import VersionApproval
from tasks.records.file_lock import locked
from tasks.records.run_record import ModelKind, Registration
from tasks.registry.shipped_code import write_code

WEIGHTS = Path("artifacts", "model")
GATES, CARD, APPROVAL = "gates.json", "README.md", "approval.json"
REQUIREMENTS = ("mlflow", "torch", "transformers")
_ONE_BY_ONE = threading.Lock()  # two that save at once leave a stand-in in sys.modules

_MESSAGES = Array(Object([Property("role", DataType.string), Property("content", DataType.string)]))
_QUESTION = {"role": "user", "content": "How do I boil an egg?"}
_ANSWER = "Put it into boiling water for eight minutes."

SIGNATURES = {
    "policy": ModelSignature(
        inputs=Schema([ColSpec(_MESSAGES, "messages")]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema(
            [
                ParamSpec("temperature", DataType.double, 0.0),
                ParamSpec("max_tokens", DataType.long, 128),
                ParamSpec("seed", DataType.long, 0),
            ]
        ),
    ),
    "reward": ModelSignature(
        inputs=Schema(
            [
                ColSpec(_MESSAGES, "messages", required=False),
                ColSpec(AnyType(), "prompt", required=False),
                ColSpec(DataType.string, "chosen", required=False),
                ColSpec(DataType.string, "rejected", required=False),
            ]
        ),
        outputs=Schema(
            [
                ColSpec(DataType.double, name, required=False)
                for name in ("score", "chosen_score", "rejected_score", "margin", "probability")
            ]
        ),
    ),
}
EXAMPLES = {
    "policy": {"messages": [_QUESTION]},
    "reward": {"messages": [_QUESTION, {"role": "assistant", "content": _ANSWER}]},
}


@dataclass(frozen=True)
class VersionRecords:
    """The records of a version: gate decisions, card (Markdown), and the template's date.

    template_date: the date that the model's chat template prints if it asks for the day.
    """

    decisions: list[Decision] = field(default_factory=list)
    card: str = ""
    template_date: str | None = None


def build(
    kind: ModelKind,
    model: Path,
    target: Path,
    records: VersionRecords,
    *,
    place: Callable | None = None,
) -> None:
    """Make `target` a version of the Hugging Face folder `model`, complete when it appears.

    Weights that are there already stay. place(source, target) puts a weight file there: by default
    a hard link, or a copy where links are impossible. Raises BadInput when `model` holds pickle
    files.
    """
    _refuse_pickles(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        folder = Path(temporary) / "new"
        ask("tasks.registry.packaging:save_frame", kind, folder)
        hidden = shutil.ignore_patterns(".*")  # not part of the digest either
        shutil.copytree(
            model, folder / WEIGHTS, copy_function=place or _link_or_copy, ignore=hidden
        )
        _name_weights(folder, records.template_date)
        _write_evidence(folder, records)
        with locked(target.with_name(f".{target.name}.lock")):
            if (target / WEIGHTS).is_dir() and digest_path(target / WEIGHTS) == digest_path(model):
                _renew(folder, target)
                return
            if target.exists():
                target.rename(Path(temporary) / "old")
            folder.rename(target)


def store(wanted: Registration, location: str, *, registered: bool) -> None:
    """Store the files of a version at an artifact location.

    A local store gets hard links, a remote one an upload. registered: a version with these weights
    points there already; then the upload leaves out weights that are there.
    """
    build_at = partial(
        build,
        wanted.kind,
        wanted.artifact.verified().path,
        records=VersionRecords(wanted.decisions, wanted.card, wanted.template_date),
    )
    if (folder := local_folder(location)) is not None:
        build_at(folder)
        write_approval(folder, wanted.approval)
        return
    remote = get_artifact_repository(location)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "version"
        build_at(folder, place=os.symlink)  # no copy: the upload reads through the links
        write_approval(folder, wanted.approval)
        if registered and any(item.path == "MLmodel" for item in remote.list_artifacts()):
            shutil.rmtree(folder / WEIGHTS)
        remote.log_artifacts(str(folder))


def _write_evidence(root: Path, records: VersionRecords) -> None:
    """Write gates.json and README.md."""
    values = {"decisions": [decision.model_dump(mode="json") for decision in records.decisions]}
    write_atomically(root / GATES, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    write_atomically(root / CARD, records.card)


def write_approval(root: Path, approval: VersionApproval) -> None:
    """Write approval.json."""
    write_atomically(root / APPROVAL, approval.model_dump_json(indent=1) + "\n")


def read_approval(root: Path) -> VersionApproval | None:
    """Read the approval from a version's files, None for a version of an earlier release.

    Raises BadInput when it cannot be read.
    """
    file = root / APPROVAL
    if not file.exists():
        return None
    try:
        return VersionApproval.model_validate_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(
            f"{file} does not say whether approval is required ({error}); register the model again."
        ) from None


def model_folder(root: Path) -> Path:
    """Return the Hugging Face folder of a version's files: `root` itself in the older layout."""
    return root / WEIGHTS if (root / WEIGHTS).is_dir() else root


def read_decisions(root: Path) -> list[Decision]:
    """Read the gate decisions from a version's files; there are none in the older layout.

    Raises BadInput when they cannot be read.
    """
    file = root / GATES
    if not file.exists():
        return []
    try:
        return TypeAdapter(list[Decision]).validate_python(
            json.loads(file.read_text(encoding="utf-8"))["decisions"]
        )
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise BadInput(
            f"{file} does not hold gate decisions ({error}); register the model again."
        ) from None


def local_folder(location: str) -> Path | None:
    """Return the folder of a file URI or a plain path, None for a remote store."""
    parsed = urlparse(location)
    return Path(unquote(parsed.path)) if parsed.scheme in ("", "file") else None


def _refuse_pickles(model: Path) -> None:
    if found := pickle_files(model):
        raise BadInput(
            f"{model} holds {found}, which may run code when they are loaded; expected safetensors"
            " only. Save the model with save_pretrained, or delete these files."
        )


def save_frame(kind: ModelKind, folder: Path) -> None:
    """Save a pyfunc model without its weights, which MLflow would copy.

    It requires the versions of this process, which are those of the models' code.
    """
    pins = [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]
    with _ONE_BY_ONE, tempfile.TemporaryDirectory() as temporary:
        script, archive = write_code(kind, Path(temporary))
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(script),
            signature=SIGNATURES[kind],
            input_example=EXAMPLES[kind],
            pip_requirements=pins,
            uv_project_path=temporary,  # else a uv project in the current folder is copied in
        )
        shutil.copy(archive, folder)


def _renew(folder: Path, target: Path) -> None:
    """Move the files beside the weights to `target`; the code last that imports the others."""
    new = sorted((file for file in folder.iterdir() if file.is_file()), key=_is_script)
    for file in new:
        file.replace(target / file.name)
    for archive in {file.name for file in target.glob("*.zip")} - {file.name for file in new}:
        (target / archive).unlink()


def _is_script(file: Path) -> bool:
    return file.suffix == ".py"


def _name_weights(folder: Path, template_date: str | None) -> None:
    """Write into MLmodel what MLflow would write if it had copied the weights."""
    meta = Model.load(str(folder))
    meta.flavors["python_function"]["artifacts"] = {
        "model": {"path": WEIGHTS.as_posix(), "uri": WEIGHTS.as_posix()}
    }
    # the model's code compares this digest with the weights when it is loaded
    meta.metadata = {"digest": digest_path(folder / WEIGHTS)}
    if template_date:
        meta.metadata["template_date"] = template_date
    meta.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    meta.save(str(folder / "MLmodel"))


def _link_or_copy(source: str, target: str) -> None:
    """Link a file that whoever loads the version can read; copy any other with such a mode."""
    file = os.path.realpath(source)  # a hub's cache holds symbolic links
    if os.stat(file).st_mode & usual_mode() == usual_mode():
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(file, target)
            return
    shutil.copy2(source, target)
    os.chmod(target, usual_mode())
