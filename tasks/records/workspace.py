"""Where a user's runs, records and tracking store lie: the folder in RLHF_HOME, or ./.rlhf."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a command that only prints help must not load the core
    from rlhf_core.rundir import StageSpec

UI_URL = "http://127.0.0.1:5000"  # where `rlhf ui` shows the SQLite store


def home_folder() -> Path:
    """Return the folder named by RLHF_HOME, else .rlhf in the current folder; it may not exist."""
    return Path(os.environ.get("RLHF_HOME") or ".rlhf").expanduser().resolve()


@dataclass(frozen=True)
class Workspace:
    """runs/<stage>-<digest12>/, outbox/ (records MLflow has not fully seen), mlflow.db,
    mlartifacts/, prefect/.
    """

    home: Path

    @classmethod
    def here(cls) -> "Workspace":
        """The workspace named by RLHF_HOME, else .rlhf in the current folder; made when absent."""
        home = home_folder()
        home.mkdir(parents=True, exist_ok=True)
        return cls(home)

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def outbox(self) -> Path:
        return self.home / "outbox"

    @property
    def artifacts(self) -> Path:
        return self.home / "mlartifacts"

    @property
    def prefect(self) -> Path:
        return self.home / "prefect"

    @property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI if set, else the SQLite store of this workspace."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.home / 'mlflow.db'}"

    def run_dir(self, spec: "StageSpec") -> Path:
        """The folder whose name is the stage and the digest of its spec."""
        return self.runs / f"{spec.stage}-{spec.digest[:12]}"
