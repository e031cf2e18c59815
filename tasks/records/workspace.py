"""The folder with a user's runs, records and tracking store: RLHF_HOME, or ./.rlhf."""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.errors import BadInput

if TYPE_CHECKING:  # a command that only prints help must not load the core
    from rlhf_core.rundir import StageSpec

TEMPLATE_DATE = "template_date"  # a file in the workspace
_ELSEWHERE = "Set RLHF_HOME to another folder, or change the permissions."
UI_URL = "http://127.0.0.1:5000"  # where `rlhf ui` shows the SQLite store


def home_folder() -> Path:
    """Return the folder named by RLHF_HOME, else .rlhf in the current folder; it may not exist."""
    return Path(os.environ.get("RLHF_HOME") or ".rlhf").expanduser().resolve()


def first_template_date(home: Path) -> str:
    """Return the day on which the workspace first ran a model whose chat template prints the date.

    The first call writes it, UTC, so that a run which goes on or is repeated on another day finds
    its stages. Of two first runs at once both get the same day. Where it cannot be written, it is
    today.
    """
    file, today = home / TEMPLATE_DATE, datetime.now(UTC).date().isoformat()
    if not file.exists():
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=home) as folder:
            new = Path(folder, file.name)
            new.write_text(today, encoding="utf-8")
            os.link(new, file)  # fails when another run was first, and is never half written
    return file.read_text(encoding="utf-8").strip() if file.exists() else today


def _require_usable_name(home: Path) -> None:
    """Raise BadInput for a path that the addresses of SQLite stores cut at its question mark."""
    if "?" in str(home):
        raise BadInput(
            f"the workspace {home} has a question mark in its path; expected one without: Prefect"
            " and MLflow cannot name a database there. Set RLHF_HOME to another folder."
        )


def _require_readable(home: Path) -> None:
    """Raise BadInput for a folder that this user may not read: it would look like an empty one."""
    try:
        os.listdir(home)
        os.stat(f"{home}/.")  # the right to open what is listed; a Path drops the dot
    except PermissionError:
        raise BadInput(
            f"the workspace {home} may not be read by user {os.geteuid()}; expected one of your"
            f" own. Set RLHF_HOME to it, or ask the owner for: chmod -R a+rX {home}."
        ) from None


@dataclass(frozen=True)
class Workspace:
    """The folder of runs, records and stores, and what is in it.

    runs/<stage>-<digest12>/, outbox/ (records that MLflow does not have in full), mlflow.db,
    mlartifacts/, prefect/.
    """

    home: Path

    @classmethod
    def here(cls) -> "Workspace":
        """Return the workspace in RLHF_HOME, else in ./.rlhf; create the folder when absent.

        Raises BadInput when it cannot be created.
        """
        home = home_folder()
        _require_usable_name(home)
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"the workspace {home} cannot be made ({error.strerror}); expected a folder in"
                f" which you may write. {_ELSEWHERE}"
            ) from None
        _require_readable(home)
        return cls(home)

    def require_writable(self) -> None:
        """Raise BadInput unless this user can write to the workspace, as a run must."""
        places = [self.home, self.runs, self.outbox, self.artifacts, self.prefect]
        for path in [*places, self.home / "mlflow.db"]:
            mode = os.W_OK | (0 if path.is_file() else os.X_OK)
            if path.exists() and not os.access(path, mode):
                raise BadInput(
                    f"the workspace cannot be used: {path} cannot be written by user"
                    f" {os.getuid()}; expected a workspace of your own. {_ELSEWHERE}"
                )

    @property
    def runs(self) -> Path:
        """The folder of the run directories."""
        return self.home / "runs"

    @property
    def outbox(self) -> Path:
        """The folder of the run records."""
        return self.home / "outbox"

    @property
    def fetched(self) -> Path:
        """The folder of registered versions that were fetched from a server."""
        return self.home / "versions"

    @property
    def objects(self) -> Path:
        """The folder of data and models that were fetched from an object store."""
        return self.home / "objects"

    @property
    def heldout(self) -> Path:
        """The folder of held-out splits without the prompts that a model was trained on."""
        return self.home / "heldout"

    @property
    def labels(self) -> Path:
        """The folder of the labelling campaigns, and of the key of the annotators' pseudonyms."""
        return self.home / "labels"

    @property
    def iterations(self) -> Path:
        """The folder of the rounds of labels and runs (`rlhf iterate`)."""
        return self.home / "iterations"

    @property
    def artifacts(self) -> Path:
        """The folder where a local MLflow store keeps its artifacts."""
        return self.home / "mlartifacts"

    @property
    def prefect(self) -> Path:
        """The folder of the local Prefect server."""
        return self.home / "prefect"

    @property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI if set, else the SQLite store of this workspace."""
        return os.environ.get("MLFLOW_TRACKING_URI") or self.own_store

    @property
    def own_store(self) -> str:
        """The address of the SQLite store of this workspace."""
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def run_dir(self, spec: "StageSpec") -> Path:
        """Return the run directory of a spec, named by its stage and digest."""
        return self.runs / f"{spec.stage}-{spec.digest[:12]}"
