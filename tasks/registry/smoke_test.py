"""The smoke test of a version: its files are loaded and run once, and the version's tags say so.

A promotion makes the test. Where no torch is installed it takes the record of an earlier one, which
must be about the same bytes: the version's digests, which are those of the files as they are served
(versions.require_digests).
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from rlhf_core.errors import PromotionRefused
from tasks.execution.stage_calls import ask, stages_torch
from tasks.execution.stage_python import stage_python
from tasks.registry import packaging
from tasks.registry.frame import REQUIREMENTS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

TAG = "smoke_test"


class SmokeTest(BaseModel):
    """The record of one test that passed: of which bytes, when, and with which packages."""

    weights: str  # the version's tags 'digest' and 'loaded_digest'
    loaded: str
    time: datetime
    packages: dict[str, str]

    @property
    def sentence(self) -> str:
        """The record for a person."""
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return f"loaded and run on {self.time:%Y-%m-%d} with {packages}"


def smoke_test(client: "MlflowClient", version: "ModelVersion", folder: Path) -> None:
    """Load and run the files of a version, and record that.

    folder: its files as they are served. Raises BadInput when they do not load or give values that
    are not finite.
    """
    kind = version.name.rpartition("-")[2]
    ask("rlhf_core.modeling.smoke:smoke", kind, packaging.model_folder(folder))
    ask("tasks.registry.answers:predict_once", kind, folder)
    record = SmokeTest(
        weights=version.tags["digest"],
        loaded=version.tags.get("loaded_digest", ""),
        time=datetime.now(UTC),
        packages={name: ask("importlib.metadata:version", name) for name in REQUIREMENTS},
    )
    client.set_model_version_tag(version.name, version.version, TAG, record.model_dump_json())


def recorded(version: "ModelVersion") -> SmokeTest | None:
    """Return the record of a test of the version's present bytes, None without one."""
    try:
        found = SmokeTest.model_validate_json(version.tags.get(TAG, ""))
    except ValidationError:
        return None
    digests = version.tags.get("digest"), version.tags.get("loaded_digest", "")
    return found if (found.weights, found.loaded) == digests else None


def require_testable(version: "ModelVersion") -> None:
    """Raise PromotionRefused where nothing can load a version, and no test of it is recorded."""
    if stages_torch() is None and recorded(version) is None:
        raise PromotionRefused(
            f"version {version.version} of {version.name} may not be champion from here: torch is"
            f" not installed for {stage_python()}, so that nothing can load it, and no smoke test"
            " of these bytes is recorded. Run its recipe again where torch is installed, which"
            " repeats no training and records one, or promote it there.",
            code="RLHF-P005",
        )
