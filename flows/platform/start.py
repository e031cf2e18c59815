"""Start the services of the platform that do not run yet, wait until they answer, stop them."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from flows.platform import database, services
from flows.platform.pages import MLFLOW_PORT, PREFECT_PORT, answers, choose_port, free_port
from flows.platform.processes import end_all, end_group, marked
from flows.platform.services import MARKER, Program
from flows.platform.state import Platform, Service, folder, locked, read, write
from rlhf_core.errors import LAST_LINES, BadInput, RLHFError
from tasks.records.process_identity import ProcessIdentity
from tasks.records.workspace import Workspace

NAMES = ("prefect", "mlflow", "worker")  # in the order in which they start
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
        for name, service in (before.services if before else {}).items():
            # what a killed server left of its group holds ports; runs that a killed worker has
            # started go on without it
            if name not in running and name != "worker":
                _end(workspace, service)
        platform, urls = _planned(before, running, wanted)
        started: list[str] = []
        try:
            for program in _programs(workspace, platform, urls, wanted.limit):
                if program.name in running:
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
        end_all(_members(workspace))
        return stopped


def _refuse_changes(
    before: Platform | None, running: dict[str, Service], wanted: PlatformOptions
) -> None:
    if not running:
        return
    asked = {
        "prefect_port": wanted.prefect_port,
        "mlflow_port": wanted.mlflow_port,
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
    before: Platform | None, running: dict[str, Service], wanted: PlatformOptions
) -> tuple[Platform, dict[str, str]]:
    """Return the platform with the ports to use, and the databases' URLs."""
    ports = {}
    for name, usual in (("prefect", PREFECT_PORT), ("mlflow", MLFLOW_PORT)):
        last = getattr(before, f"{name}_port") if before else usual
        ports[f"{name}_port"] = (
            last if name in running else choose_port(getattr(wanted, f"{name}_port"), last)
        )
    pool = wanted.pool or (before.pool if before else "rlhf")
    place = (
        database.masked(wanted.database) if wanted.database else before.database if before else None
    )
    needed = {"prefect", "mlflow"} - set(running)
    if place and needed and not wanted.database:
        raise BadInput(
            f"this platform's data are in {place}; give --database (or RLHF_DATABASE_URL) with the"
            " password again."
        )
    urls = database.prepare(wanted.database) if wanted.database and needed else {}
    return Platform(**ports, pool=pool, database=place, services=running), urls


def _programs(
    workspace: Workspace, platform: Platform, urls: dict[str, str], limit: int | None
) -> list[Program]:
    return [
        services.prefect(workspace, platform, urls.get("prefect")),
        services.mlflow(workspace, platform, urls.get("mlflow")),
        services.worker(workspace, platform, port=free_port(), limit=limit),
    ]


def _started(
    workspace: Workspace, platform: Platform, program: Program, tell: Callable[[str], None]
) -> Platform:
    """Start a service; return the platform with it, written before anything is waited for."""
    if program.after:
        _wait(platform, [name for name in program.after if name in platform.services])
    tell(f"starting {program.name} ...")
    log = folder(workspace) / f"{program.name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=program.environment,
            start_new_session=True,
        )
    service = Service(
        name=program.name, owner=ProcessIdentity.of(process.pid), health=program.health, log=log
    )
    platform = platform.model_copy(update={"services": platform.services | {program.name: service}})
    write(workspace, platform)
    return platform


def _wait(platform: Platform, names: list[str]) -> None:
    """Return when all of these services answer.

    Raises RLHFError with the end of the log of a service that died or takes too long.
    """
    end = time.monotonic() + START_SECONDS
    for service in (platform.services[name] for name in names):
        while not answers(service.health):
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
        if name in names and _end(workspace, platform.services[name])
    ]
    left = {name: service for name, service in platform.services.items() if name not in names}
    write(workspace, platform.model_copy(update={"services": left}))
    return stopped


def _end(workspace: Workspace, service: Service) -> bool:
    """End a service's process group, and return True if the service ran.

    Another process that has got the service's process id is left alone.
    """
    ran = end_group(service.owner)
    end_all(_members(workspace, service.owner.pid), sent=ran)
    return ran


def _members(workspace: Workspace, group: int | None = None) -> list[psutil.Process]:
    """Return the live processes, of a group or of all, that carry this platform's marker."""
    return marked(MARKER, str(workspace.home), group)
