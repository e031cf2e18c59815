"""Live models as `rlhf live status` shows them."""

from dataclasses import dataclass
from datetime import datetime

from flows.platform.live import servers
from flows.platform.live.state import LiveFolder, LiveState, ModelServer, live_folders
from rlhf_core.errors import BadInput
from tasks.live.allowed import PASSTHROUGH
from tasks.records.workspace import Workspace
from tasks.tracking.address import redacted


@dataclass(frozen=True)
class ServerView:
    """A server as `rlhf live status` shows it. share: percent of the requests."""

    version: str
    share: int
    health: str
    since: datetime
    answered: int
    pid: int
    address: str
    log: str


@dataclass(frozen=True)
class LiveView:
    """A live model as `rlhf live status` shows it. address: for OpenAI clients.

    gateway: the address by MLflow's AI Gateway, where there is one. answers: the router does.
    """

    name: str
    address: str
    gateway: str | None
    since: datetime | None  # None: the start was interrupted before anything ran
    watched: bool
    answers: bool
    servers: list[ServerView]
    problem: str


def view(place: LiveFolder) -> LiveView:
    """Return how a live model is. Raises BadInput where nothing is live under the name."""
    options, state = place.options(), place.state()
    if options is None:
        raise BadInput(f"{place.name} is not live; start it with rlhf live {place.name}.")
    router = state.router if state else None
    counts = servers.requests(router) if router else None
    answered = counts["answered"] if counts else {}
    gateway = redacted(options.tracking_uri).rstrip("/") + PASSTHROUGH
    return LiveView(
        name=options.name,
        address=options.address,
        gateway=gateway if options.gateway else None,
        since=state.since if state else None,
        watched=bool(state and state.is_watched),
        answers=counts is not None,
        servers=[
            _server_view(state, server, answered.get(server.model, 0))
            for server in (state.servers.values() if state else [])
            if state
        ],
        problem=state.problem if state else "",
    )


def require_live(workspace: Workspace, name: str | None) -> list[LiveFolder]:
    """Return the live models, or the one that is named. Raises BadInput where it is not live."""
    found = live_folders(workspace)
    if name is None:
        return found
    chosen = [place for place in found if place.name == name]
    if not chosen:
        there = ", ".join(place.name for place in found) or "none"
        raise BadInput(f"{name} is not live in this workspace; found {there}.")
    return chosen


def _server_view(state: LiveState, server: ModelServer, answered: int) -> ServerView:
    runs = bool(server.owner.is_running())
    health = "has died" if not runs else "well" if servers.is_ready(server) else "loading"
    return ServerView(
        version=server.version,
        share=state.shares.get(server.version, 0),
        health="leaving" if server.version in state.leaving and runs else health,
        since=server.started,
        answered=answered,
        pid=server.owner.pid,
        address=server.root,
        log=str(server.log),
    )
