"""The record of what `rlhf up` has started.

A process is identified by its id and start time, so a later process of the same id is left alone.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from rlhf_core.errors import RLHFError
from rlhf_core.rundir import Frozen, write_atomically
from tasks.records import file_lock
from tasks.records.process_identity import ProcessIdentity
from tasks.records.workspace import Workspace

HOST = "127.0.0.1"
PAGE_PORT = 5100  # of the team's page, unless it is taken


class Service(Frozen):
    """A process that was started: the leader of a process group of its own."""

    name: str
    owner: ProcessIdentity
    health: str  # an address that answers when the service is well; '' for one without
    log: Path

    @property
    def runs(self) -> bool:
        """True while the process runs."""
        return bool(self.owner.is_running())


class Trouble(Frozen):
    """The recent deaths of a service, as its keeper has seen them.

    why: how it ended the last time, e.g. "exit code 1"; '' where nobody knows. again: when it is
    started next; None while it runs, and when it is given up.
    """

    deaths: int
    last: datetime
    why: str = ""
    again: datetime | None = None
    given_up: bool = False


class Platform(Frozen):
    """Ports, and the processes behind them.

    database: without its password; None for SQLite in the workspace. limit: runs that the worker
    starts at once; None: as many as are due. troubles: of services that died since `rlhf up`.
    """

    prefect_port: int
    mlflow_port: int
    page_port: int = PAGE_PORT
    pool: str
    database: str | None = None
    limit: int | None = None
    services: dict[str, Service] = Field(default={})
    troubles: dict[str, Trouble] = Field(default={})

    @property
    def prefect_url(self) -> str:
        """The address of Prefect's page."""
        return f"http://{HOST}:{self.prefect_port}"

    @property
    def prefect_api(self) -> str:
        """The address of Prefect's API (PREFECT_API_URL)."""
        return f"{self.prefect_url}/api"

    @property
    def mlflow_url(self) -> str:
        """The address of MLflow's server (MLFLOW_TRACKING_URI)."""
        return f"http://{HOST}:{self.mlflow_port}"

    @property
    def page_url(self) -> str:
        """The address of the team's page."""
        return f"http://{HOST}:{self.page_port}"

    def runs(self, name: str) -> bool:
        """Return True while the named service runs."""
        return name in self.services and self.services[name].runs


def folder(workspace: Workspace) -> Path:
    """Return the folder of the platform's state, lock and logs; create it when absent."""
    path = workspace.home / "platform"
    path.mkdir(parents=True, exist_ok=True)
    return path


def read(workspace: Workspace) -> Platform | None:
    """Return the platform as it was last written, or None when there never was one.

    Raises RLHFError for a damaged file.
    """
    file = workspace.home / "platform" / "state.json"
    if not file.exists():
        return None
    try:
        return Platform.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise RLHFError(
            f"{file} is damaged ({error.error_count()} errors); end the servers by hand and delete"
            " the file."
        ) from None


def write(workspace: Workspace, platform: Platform) -> None:
    """Write the platform to the workspace."""
    write_atomically(folder(workspace) / "state.json", platform.model_dump_json(indent=1))


@contextlib.contextmanager
def locked(workspace: Workspace) -> Iterator[None]:
    """Let one `rlhf up` or `rlhf down` of a workspace run at a time; a second one waits."""
    with file_lock.locked(folder(workspace) / "lock"):
        yield


def use() -> None:
    """Have this process use the platform of its workspace where one runs.

    Addresses that the user has set stay. A platform on PostgreSQL is used even while MLflow is
    down: the run is then spooled, not recorded in another store.
    """
    workspace = Workspace.here()
    platform = read(workspace)
    if platform is None:
        return
    if platform.runs("prefect"):
        os.environ.setdefault("PREFECT_API_URL", platform.prefect_api)
    if platform.runs("mlflow") or (platform.database and platform.services):
        os.environ.setdefault("MLFLOW_TRACKING_URI", platform.mlflow_url)
