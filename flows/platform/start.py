"""Start the services of the platform that do not run yet, wait until they answer, stop them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from flows.platform import database, services
from flows.platform.launch import end, end_strays, is_well, launch, members
from flows.platform.pages import MLFLOW_PORT, PREFECT_PORT, choose_port
from flows.platform.processes import end_all
from flows.platform.services import KEEPER, Program
from flows.platform.state import PAGE_PORT, Platform, Service, locked, read, write
from rlhf_core.errors import LAST_LINES, BadInput, RLHFError
from tasks.records.workspace import Workspace
from tasks.tracking.sqlite_store import ensure_tables

NAMES = ("prefect", "mlflow", "worker", "page", KEEPER)  # in the order in which they start
USUAL_PORTS = {"prefect": PREFECT_PORT, "mlflow": MLFLOW_PORT, "page": PAGE_PORT}
START_SECONDS = 180.0


@dataclass(frozen=True)
class PlatformOptions:
    """The options of `rlhf up`.

    None: as it was the last time, else a free port, SQLite, the pool 'rlhf'.
    """

    prefect_port: int | None = None
    mlflow_port: int | None = None
    database: str | None = None
    pool: str | None = None
    limit: int | None = None  # runs that the worker starts at once; None: as many as are due
    page_port: int | None = None
    restart: bool = True  # with a keeper, which starts again what dies


def up(
    workspace: Workspace, wanted: PlatformOptions, tell: Callable[[str], None]
) -> tuple[Platform, list[str]]:
    """Start the platform; return it and the names of the services that this call started.

    A service that runs already is left as it is. Raises BadInput for a port or database that
    cannot be used, RLHFError when a service does not start; then what this call started is ended
    again.
    """
    with locked(workspace):
        before = read(workspace)
        running = {
            name: service
            for name, service in (before.services if before else {}).items()
            if service.runs
        }
        _refuse_changes(before, running, wanted)
        if not wanted.restart and KEEPER in running:
            end(workspace, running.pop(KEEPER))
        _end_left(workspace, before, running)
        wished = [name for name in NAMES if wanted.restart or name != KEEPER]
        platform, urls = _planned(before, running, wanted, wished)
        write(workspace, platform)
        if "prefect" not in running and "prefect" not in urls:
            database.prepare_file(workspace.prefect)
        if "mlflow" not in running:
            ensure_tables(urls.get("mlflow") or workspace.own_store)
        started: list[str] = []
        try:
            for program in services.programs(workspace, platform, urls, wanted.database):
                if program.name in running or program.name not in wished:
                    continue
                platform = _started(workspace, platform, program, tell)
                started.append(program.name)
            _wait(platform, started)
        except BaseException:
            _stop(workspace, platform, started)
            raise
        return platform, started


def down(workspace: Workspace) -> list[str]:
    """Stop the platform, the worker first; return the names of the services that ran.

    Ports and database are kept for the next `up`.
    """
    with locked(workspace):
        platform = read(workspace)
        stopped = _stop(workspace, platform, list(platform.services)) if platform else []
        end_all(members(workspace))
        return stopped


def _end_left(workspace: Workspace, before: Platform | None, running: dict[str, Service]) -> None:
    """End what killed services have left of their groups, and services that nobody has recorded.

    They hold ports. Runs that a killed worker has started go on without it.
    """
    for name, service in (before.services if before else {}).items():
        if name not in running and name != "worker":
            end(workspace, service)
    end_strays(workspace, before)


def _refuse_changes(
    before: Platform | None, running: dict[str, Service], wanted: PlatformOptions
) -> None:
    if not running:
        return
    asked = {
        "prefect_port": wanted.prefect_port,
        "mlflow_port": wanted.mlflow_port,
        "page_port": wanted.page_port,
        "pool": wanted.pool,
    }
    asked["database"] = database.masked(wanted.database) if wanted.database else None
    for name, value in asked.items():
        if value is not None and value != getattr(before, name):
            raise BadInput(
                f"the platform of this workspace runs with {name} {getattr(before, name)}, and"
                f" {value} is asked for; run rlhf down first."
            )


def _planned(
    before: Platform | None, running: dict[str, Service], wanted: PlatformOptions, wished: list[str]
) -> tuple[Platform, dict[str, str]]:
    """Return the platform with the ports to use, and the databases' URLs.

    wished: the services that are to run.
    """
    ports = {}
    for name, usual in USUAL_PORTS.items():
        last = getattr(before, f"{name}_port") if before else usual
        ports[f"{name}_port"] = (
            last if name in running else choose_port(getattr(wanted, f"{name}_port"), last)
        )
    pool = wanted.pool or (before.pool if before else "rlhf")
    place = (
        database.masked(wanted.database) if wanted.database else before.database if before else None
    )
    needed = {"prefect", "mlflow", KEEPER} & set(wished) - set(running)
    if place and needed and not wanted.database:
        raise BadInput(
            f"this platform's data are in {place}; give --database (or RLHF_DATABASE_URL) with the"
            " password again."
        )
    urls = database.prepare(wanted.database) if wanted.database and needed else {}
    limit = before.limit if before and "worker" in running else wanted.limit
    return Platform(**ports, pool=pool, database=place, limit=limit, services=running), urls


def _started(
    workspace: Workspace, platform: Platform, program: Program, tell: Callable[[str], None]
) -> Platform:
    """Start a service; return the platform with it, written before anything is waited for."""
    _wait(platform, [name for name in program.after if name in platform.services])
    tell(f"starting {program.name} ...")
    return launch(workspace, platform, program)[0]


def _wait(platform: Platform, names: list[str]) -> None:
    """Return when all of these services answer.

    Raises RLHFError with the end of the log of a service that died or takes too long.
    """
    end = time.monotonic() + START_SECONDS
    for service in (platform.services[name] for name in names):
        while not is_well(service):
            if not service.runs or time.monotonic() > end:
                log = service.log.read_text(encoding="utf-8", errors="replace")
                tail = "\n  ".join(log.splitlines()[-LAST_LINES:])
                raise RLHFError(
                    f"{service.name} did not start; the end of its log {service.log}:\n  {tail}"
                )
            time.sleep(0.3)


def _stop(workspace: Workspace, platform: Platform, names: list[str]) -> list[str]:
    stopped = [
        name
        for name in reversed(NAMES)
        if name in names and end(workspace, platform.services[name])
    ]
    left = {name: service for name, service in platform.services.items() if name not in names}
    write(workspace, platform.model_copy(update={"services": left, "troubles": {}}))
    return stopped
