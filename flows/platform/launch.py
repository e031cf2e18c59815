"""Start one service of the platform as a process group of its own, and end it."""

import contextlib
import os
import subprocess

import psutil

from flows.platform.pages import answers
from flows.platform.processes import end_all, end_group, in_groups, marked
from flows.platform.services import KEEPER, KINDS, MARKER, Program
from flows.platform.state import Platform, Service, folder, write
from rlhf_core.rundir import write_atomically
from tasks.records.process_identity import ProcessIdentity
from tasks.records.workspace import Workspace

PID_FILE = "keeper.pid"  # for systemd


def launch(
    workspace: Workspace, platform: Platform, program: Program
) -> tuple[Platform, subprocess.Popen[bytes]]:
    """Start a service, and write the platform with it. The platform must be locked.

    It does not answer yet.
    """
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
    if program.name == KEEPER:
        write_atomically(folder(workspace) / PID_FILE, f"{process.pid}\n")
    return platform, process


def is_well(service: Service) -> bool:
    """Return True while a service runs and answers."""
    return service.runs and (not service.health or answers(service.health))


def end(workspace: Workspace, service: Service) -> bool:
    """End a service's process group, and return True if the service ran.

    Another process that has got the service's process id is left alone.
    """
    ran = end_group(service.owner)
    end_all(members(workspace, service.owner.pid), sent=ran)
    return ran


def end_strays(workspace: Workspace, platform: Platform | None) -> None:
    """End services that the record does not name, with all of their groups.

    Whoever starts a service may be killed before it has recorded the service.
    """
    known = {service.owner.pid for service in platform.services.values()} if platform else set()
    groups = set()
    for process in members(workspace):
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            is_leader = os.getpgid(process.pid) == process.pid
            if is_leader and process.pid not in known and tuple(process.cmdline()[1:4]) in KINDS:
                groups.add(process.pid)
    end_all(in_groups(groups))


def members(workspace: Workspace, group: int | None = None) -> list[psutil.Process]:
    """Return the live processes, of a group or of all, that carry this platform's marker."""
    return marked(MARKER, str(workspace.home), group)
