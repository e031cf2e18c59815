"""The frame of a version: what MLflow loads its weights by.

MLmodel, <kind>_model.py, requirements.txt, ...
                   as mlflow.pyfunc.save_model writes them (models from code, no pickles)
rlhf_core_<digest>.zip  the modules of this project that the code imports

MLflow is imported for it in the interpreter of the stages, whose packages the version requires. A
version that is registered again with the same code and packages keeps the frame that it has.
"""

import shutil
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array, Object, Property

from rlhf_core.digest import digest_json, digest_path
from tasks.execution.stage_calls import ask
from tasks.records.run_record import ModelKind
from tasks.registry.shipped_code import shipped_sources, write_code

REQUIREMENTS = ("mlflow", "torch", "transformers")
MADE_FROM = "frame"  # the digest of what a frame was made from, in MLmodel's metadata
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


def place_frame(
    kind: ModelKind, folder: Path, present: Path | None, others: tuple[str, ...]
) -> None:
    """Make `folder`, with the frame of a kind of model.

    present: the files beside the weights of the version that is registered, as its tags say; their
    frame, all but the files `others`, is taken if the same code and packages would give it again.
    Raises BadInput where torch is not installed, whose version a frame requires.
    """
    made_from = _made_from(kind)
    if present is not None and _metadata(present).get(MADE_FROM) == made_from:
        shutil.copytree(present, folder, ignore=shutil.ignore_patterns(*others))
        return
    ask("tasks.registry.frame:save_frame", kind, folder)
    meta = Model.load(str(folder))
    meta.metadata = {MADE_FROM: made_from}
    meta.save(str(folder / "MLmodel"))


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


def name_weights(folder: Path, weights: Path, template_date: str | None) -> None:
    """Write into MLmodel what MLflow would write if it had copied the weights.

    weights: where they are in `folder`.
    """
    meta = Model.load(str(folder))
    meta.flavors["python_function"]["artifacts"] = {
        "model": {"path": weights.as_posix(), "uri": weights.as_posix()}
    }
    made_from = (meta.metadata or {})[MADE_FROM]
    # the model's code compares this digest with the weights when it is loaded
    meta.metadata = {"digest": digest_path(folder / weights), MADE_FROM: made_from}
    if template_date:
        meta.metadata["template_date"] = template_date
    meta.model_size_bytes = sum(
        file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and file.name != "MLmodel"
    )
    meta.save(str(folder / "MLmodel"))


def _made_from(kind: ModelKind) -> str:
    """Return the digest of all that decides what is in a frame."""
    packages = {name: ask("importlib.metadata:version", name) for name in REQUIREMENTS}
    python = ask("platform:python_version")
    own = Path(__file__).read_text(encoding="utf-8")  # signatures, examples, what is written here
    return digest_json([kind, python, packages, own, shipped_sources(kind)])


def _metadata(folder: Path) -> dict[str, str]:
    return (Model.load(str(folder)).metadata or {}) if (folder / "MLmodel").exists() else {}
