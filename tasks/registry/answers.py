"""The answers of a version through MLflow, compared with those of the pipeline."""

from pathlib import Path
from typing import Any

import mlflow
from mlflow.models import Model

from rlhf_core.errors import BadInput
from rlhf_core.template_date import template_date
from tasks.records.run_record import ModelKind
from tasks.registry import packaging
from tasks.registry.frame import EXAMPLES

TOLERANCE = 1e-3  # of a score, at least: both sides compute in float32


def predict_once(kind: ModelKind, folder: Path) -> None:
    """Load a version's files through MLflow and predict once, where they are an MLflow model.

    Raises what MLflow raises, and BadInput when a reward model scores otherwise than here.
    """
    if not (folder / "MLmodel").exists():
        return
    model = mlflow.pyfunc.load_model(str(folder))
    if kind == "policy":
        model.predict(EXAMPLES[kind], params={"max_tokens": 1})
    else:
        _require_same_scores(model, folder)


def _require_same_scores(model: Any, folder: Path) -> None:
    """Compare the scores of a loaded pyfunc model, whose answer is a frame, with the pipeline's."""
    # torch, which whoever asks for a policy alone does not need
    from rlhf_core.modeling.smoke import CONVERSATIONS, pipeline_scores

    rows = [
        {"messages": [*row["prompt"], {"role": "assistant", "content": row["reply"]}]}
        for row in CONVERSATIONS
    ]
    found = model.predict(rows)["score"].tolist()
    with template_date((Model.load(str(folder)).metadata or {}).get("template_date")):
        expected = pipeline_scores(packaging.model_folder(folder))
    for score, own in zip(found, expected, strict=True):
        if abs(score - own) > TOLERANCE * max(1.0, abs(own)):
            raise BadInput(
                f"{folder} scores {own:.4g} in this pipeline and {score:.4g} as an MLflow model;"
                " expected the same. Register the model again."
            )
