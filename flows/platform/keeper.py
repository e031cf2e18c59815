"""Start services of the platform again when they have died, and keep their logs small.

`python -m flows.platform.keeper` is started by `rlhf up`. It looks at the platform under the lock
that `rlhf up` and `rlhf down` hold, so it starts nothing while they work, nor after they have ended
it. When it dies, the services go on; the next `rlhf up` starts a new keeper, and only that.

A service that runs but does not answer is left alone: a busy machine is no reason to kill a server.
"""

import logging
import os
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from flows.platform import database, services, state
from flows.platform.launch import end, is_well, launch
from flows.platform.logs import rotate
from flows.platform.restarts import Deaths
from flows.platform.services import DATABASE, KEEPER, Program
from flows.platform.state import Platform, Service, Trouble
from rlhf_core.errors import RLHFError
from tasks.records.process_identity import ProcessIdentity
from tasks.records.workspace import Workspace

STEP_SECONDS = 1.0
log = logging.getLogger("rlhf.keeper")


# workspace, platform, URLs of the databases, URL that they were made from -> the services
Programs = Callable[[Workspace, Platform, dict[str, str], str | None], list[Program]]


class Keeper:
    """The keeper of one platform, which is the process `owner`.

    url: of its PostgreSQL, with the password. programs: makes the commands of its services.
    """

    def __init__(
        self,
        workspace: Workspace,
        owner: ProcessIdentity,
        url: str | None = None,
        programs: Programs = services.programs,
    ):
        self.workspace, self.owner, self.url, self.programs = workspace, owner, url, programs
        self._deaths: dict[str, Deaths] = {}
        self._seen: dict[str, ProcessIdentity] = {}  # the processes whose death is recorded
        self._again: dict[str, float] = {}  # when a service is started again
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def step(self) -> bool:
        """Look once at every service; return False when the platform has another keeper or none."""
        with state.locked(self.workspace):
            platform = state.read(self.workspace)
            keeper = platform.services.get(KEEPER) if platform else None
            if platform is None or keeper is None or keeper.owner != self.owner:
                return False
            for service in list(platform.services.values()):
                platform = self._look(platform, service)
        self._reap({service.owner.pid for service in platform.services.values()})
        for service in platform.services.values():
            if rotate(service.log):
                log.warning("%s was cut; its text is in %s.1", service.log, service.log.name)
        return True

    def _look(self, platform: Platform, service: Service) -> Platform:
        """Return the platform after what is due for one service."""
        name = service.name
        if service.runs:
            return self._forget(platform, name)
        if self._seen.get(name) != service.owner or name not in platform.troubles:
            platform = self._record(platform, service, self._end_of(service))
        if platform.troubles[name].given_up or time.monotonic() < self._again[name]:
            return platform
        return self._start(platform, service)

    def _forget(self, platform: Platform, name: str) -> Platform:
        """Take deaths that are long ago out of the record."""
        deaths = self._deaths.setdefault(name, Deaths())
        if name not in platform.troubles or deaths.recent(time.monotonic()):
            return platform
        return self._written(platform, name, None)

    def _record(self, platform: Platform, service: Service, why: str) -> Platform:
        """Record that a service has died, or could not be started, and when it is tried again."""
        name, now = service.name, time.monotonic()
        is_first = name not in platform.troubles  # since the last `rlhf up`
        deaths = Deaths() if is_first else self._deaths.setdefault(name, Deaths())
        wait = deaths.add(now)
        self._deaths[name] = deaths
        self._seen[name], self._again[name] = service.owner, now + (wait or 0.0)
        at = datetime.now(UTC)
        trouble = Trouble(
            deaths=deaths.recent(now),
            last=at,
            why=why,
            again=None if wait is None else at + timedelta(seconds=wait),
            given_up=wait is None,
        )
        next_ = "it is given up" if wait is None else f"it is started again in {wait:g} s"
        log.warning("%s has died%s; %s.", name, f" ({why})" if why else "", next_)
        return self._written(platform, name, trouble)

    def _start(self, platform: Platform, service: Service) -> Platform:
        """Start a service again, once those that it needs answer."""
        name = service.name
        try:
            program = self._program(platform, name)
            if not all(is_well(platform.services[needed]) for needed in program.after):
                return platform
            if name != "worker":  # runs that a killed worker has started go on without it
                end(self.workspace, service)  # what is left of its group holds ports
            running = platform.troubles[name].model_copy(update={"again": None})
            changed = platform.model_copy(update={"troubles": platform.troubles | {name: running}})
            platform, process = launch(self.workspace, changed, program)
        except (RLHFError, OSError) as error:
            return self._record(platform, service, str(error))
        self._children[process.pid] = process
        log.warning("%s was started as process %d.", name, process.pid)
        return platform

    def _program(self, platform: Platform, name: str) -> Program:
        if platform.database and not self.url:
            raise RLHFError(f"the keeper lacks the password of {platform.database}")
        urls = database.urls_of(self.url) if self.url else {}
        found = self.programs(self.workspace, platform, urls, self.url)
        return next(program for program in found if program.name == name)

    def _end_of(self, service: Service) -> str:
        """Return how a process that this keeper has started has ended; '' for another one."""
        child = self._children.pop(service.owner.pid, None)
        code = child.wait() if child else None  # it is dead: this only takes its exit code
        if code is None:
            return ""
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _reap(self, known: set[int]) -> None:
        """Take the exit codes of ended children; forget those that `rlhf up` has replaced."""
        ended = {pid for pid, child in self._children.items() if child.poll() is not None}
        for pid in ended - known:
            del self._children[pid]

    def _written(self, platform: Platform, name: str, trouble: Trouble | None) -> Platform:
        troubles = {key: value for key, value in platform.troubles.items() if key != name}
        troubles |= {name: trouble} if trouble else {}
        platform = platform.model_copy(update={"troubles": troubles})
        state.write(self.workspace, platform)
        return platform


def main() -> None:
    """Keep the platform of this workspace until `rlhf down`, or until another keeper has it."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    keeper = Keeper(Workspace.here(), ProcessIdentity.current(), os.environ.get(DATABASE))
    problem, goes_on = "", True
    while goes_on:
        try:
            goes_on = keeper.step()
        except (RLHFError, OSError) as error:  # a full disk, a damaged record: the services go on
            if str(error) != problem:
                log.warning("%s", error)
            problem = str(error)
        time.sleep(STEP_SECONDS)


if __name__ == "__main__":
    main()
