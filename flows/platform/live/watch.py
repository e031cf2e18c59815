"""Watch a live model: its router, its servers, its routes, and the alias of its champion.

`python -m flows.platform.live.watch NAME` is started by `rlhf live`, and goes on until `rlhf live
stop`. When it dies, router and servers go on answering; the next `rlhf live` takes them over.
"""

import logging
import sys
import time
from datetime import UTC, datetime

from flows.platform.live import servers
from flows.platform.live.state import LiveFolder, LiveOptions, LiveState, ModelServer
from rlhf_core.errors import RLHFError
from rlhf_core.live.routes import Route
from rlhf_core.live.routing import WantedVersions, shares, to_start, to_stop, wait_seconds
from tasks.live.replies import delete_older, delete_refused, store_logged
from tasks.live.versions import fetch_served, wanted_versions
from tasks.promotion import announce
from tasks.promotion.aliases import RegistryAliases
from tasks.records.process_identity import ProcessIdentity
from tasks.records.workspace import Workspace
from tasks.tracking.client import brief, connect

STEP_SECONDS = 1.0
LEAVING_AT_MOST_SECONDS = 600.0  # for the last replies of a server that gets no requests any more
log = logging.getLogger("rlhf.live")


class LiveWatch:
    """The watcher of one live model."""

    def __init__(
        self,
        place: LiveFolder,
        options: LiveOptions,
        command: servers.Command = servers.vllm_command,
    ):
        self.place, self.options, self.command = place, options, command
        self.registry = RegistryAliases(
            connect(options.tracking_uri), place.workspace, options.name
        )
        self.state = _taken_over(place)
        self._deaths: dict[str, int] = {}  # also failed starts, by version
        self._again: dict[str, float] = {}  # when a version that has died is started again
        self._wanted: WantedVersions | None = None
        self._delete_at = 0.0  # when old replies are deleted next
        self._ready: list[str] = []  # versions whose servers answer

    def step(self) -> None:
        """Look once at alias, processes and routes, and do what is due. Record what fails."""
        problem, self._ready = "", []
        self.options = options = self.place.options() or self.options
        is_new = options != self.state.options
        if is_new:
            self._again.clear()  # who asks again need not wait
        is_over = options.asked == self.state.ended
        try:
            canary = 0 if is_over else options.canary
            self._wanted = wanted_versions(self.registry, options.candidate, canary)
            if canary and self._wanted.champion == options.candidate:
                # so that it is no canary again when it is rolled back
                self._write(ended=options.asked)
        except Exception as error:  # MLflow is away: what is served stays
            problem = _text(error)
        self._forget_dead()
        try:
            self._keep_router()
            if self._wanted:
                problem = self._start_missing(self._wanted) or problem
                self._route(self._wanted)
                self._end_surplus(self._wanted)
            self._keep_replies()
        except Exception as error:  # the servers go on; the next step tries again
            problem = _text(error)
        if problem or is_new or self._is_well():
            self._write(problem=problem, options=options)

    def _is_well(self) -> bool:
        """Return True when every wanted version has a server that answers."""
        return self._wanted is not None and set(self._wanted.versions) <= set(self._ready)

    def _write(self, **changes: object) -> None:
        state = self.state.model_copy(update=changes)
        if state != self.state:
            if state.problem and state.problem != self.state.problem:
                log.warning("%s", state.problem)
            self.state = state
            self.place.write(state)

    def _keep_router(self) -> None:
        """Start the router where it does not run."""
        router = self.state.router
        if router is None or not router.owner.is_running():
            self._write(router=servers.start_router(self.place, self.options))

    def _forget_dead(self) -> None:
        """Take servers that have ended out of the state, and say so."""
        for server in list(self.state.servers.values()):
            if server.owner.is_running():
                continue
            version = server.version
            self._delay(version)
            text = (
                f"the server of version {version} of {self.options.name} has ended; the end of its"
                f" log {server.log}:\n  {servers.end_of_log(server)}"
            )
            self._write(
                servers=_without(self.state.servers, version),
                leaving=_without(self.state.leaving, version),
                problem=text,
            )
            servers.end_server(server)  # what is left of its group
            if version in self.state.shares:
                self._announce(f"The server of version {version} has ended.")

    def _delay(self, version: str) -> None:
        """Let the next start of a version wait, the longer the more often it has failed."""
        deaths = self._deaths[version] = self._deaths.get(version, 0) + 1
        self._again[version] = time.monotonic() + wait_seconds(deaths)

    def _start_missing(self, wanted: WantedVersions) -> str:
        """Start the missing servers; return what fails, which holds up no other version."""
        problems = []
        for version in to_start(wanted, self.state.servers):
            if time.monotonic() < self._again.get(version, 0.0):
                continue
            try:
                served = fetch_served(self.registry, version)
                server = servers.start_server(self.place, served, self.command)
                self._write(servers=self.state.servers | {version: server})
            except Exception as error:
                self._delay(version)
                problems.append(f"version {version} is not served: {_text(error)}")
        return "; ".join(problems)

    def _route(self, wanted: WantedVersions) -> None:
        """Send the requests to the servers that answer, where that is not so already."""
        self._ready = [
            version for version, server in self.state.servers.items() if servers.is_ready(server)
        ]
        found = shares(wanted, self._ready, self.state.shares)
        routes = [_route_of(self.state.servers[version], share) for version, share in found.items()]
        if not found or routes == self.place.routes.read():
            return
        self.place.routes.write(routes)
        for version in found:
            servers.free_names_of_blocks(self.state.servers[version])
            self._deaths.pop(version, None)
        before = self.state.shares
        stay = {*found, *wanted.versions}  # a wanted one that has died comes back
        gone = {version: _now() for version in before if version not in stay}
        leaving = {v: t for v, t in (self.state.leaving | gone).items() if v not in found}
        self._write(shares=found, leaving=leaving)
        if before not in ({}, found):
            text = ", ".join(f"version {version} {share}%" for version, share in found.items())
            self._announce(f"Requests go to {text} now.")

    def _end_surplus(self, wanted: WantedVersions) -> None:
        """End servers that get no requests any more, once the last one is answered."""
        for version in to_stop(wanted, self.state.servers, self.state.shares):
            server = self.state.servers[version]
            if version not in self.state.leaving:
                self._write(leaving=self.state.leaving | {version: _now()})
            since = (_now() - self.state.leaving[version]).total_seconds()
            assert self.state.router is not None  # started before the first server
            counts = servers.requests(self.state.router)
            under_way = counts is None or counts["under_way"].get(server.model, 0)
            if under_way and since < LEAVING_AT_MOST_SECONDS:
                continue
            servers.end_server(server)
            self._write(
                servers=_without(self.state.servers, version),
                leaving=_without(self.state.leaving, version),
            )

    def _keep_replies(self) -> None:
        """Store the logged replies in MLflow, and delete those that are too old, once an hour."""
        client, name, days = self.registry.client, self.options.name, self.options.keep_days
        if days is not None and time.monotonic() >= self._delete_at:
            self._delete_at = time.monotonic() + 3600
            delete_refused(self.place.replies, days)
            delete_older(client, name, days)
        store_logged(client, self.place.workspace, name, self.place.replies)

    def _announce(self, reason: str) -> None:
        model = self.registry.model("policy")
        log.warning("%s", reason)
        payload = {"model": model, "reason": f"{model}: {reason}"}
        announce.publish(announce.LIVE, announce.model_resource(model), payload)


def _taken_over(place: LiveFolder) -> LiveState:
    """Return the state with this watcher, and what runs of a watcher that has died."""
    new = {"watcher": ProcessIdentity.current(), "problem": "", "options": None}
    before = place.state()
    if before is None:
        state = LiveState(since=_now(), **new)
    else:
        state = before.running().model_copy(update=new)
        for process in before.processes:
            if not process.owner.is_running():
                servers.end_server(process)  # what is left of its group
        routes = [route for route in place.routes.read() if route.version in state.shares]
        place.routes.write(routes)
    place.write(state)
    return state


def _route_of(server: ModelServer, share: int) -> Route:
    return Route(
        version=server.version,
        model=server.model,
        address=f"{server.root}/v1",
        key=server.key,
        share=share,
    )


def _without(values: dict, key: str) -> dict:
    return {name: value for name, value in values.items() if name != key}


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, RLHFError) else brief(error)


def _now() -> datetime:
    return datetime.now(UTC)


def main(name: str) -> None:
    """Watch until this process is asked to end."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    place = LiveFolder(Workspace.here(), name)
    with place.locked("watch.lock", "watches"):
        options = place.options()
        if options is None:
            sys.exit(f"nothing is live under the name {name}")
        watch = LiveWatch(place, options)
        while True:
            watch.step()
            time.sleep(STEP_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1])
