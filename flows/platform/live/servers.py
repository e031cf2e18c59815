"""The processes of a live model: start the router or a version's server, ask it, end it."""

import json
import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from flows.platform.live.state import (
    MARKER,
    LiveFolder,
    LiveOptions,
    LiveProcess,
    LiveState,
    ModelServer,
)
from flows.platform.pages import answers, choose_port, free_port
from flows.platform.processes import end_all, end_group, group_of
from flows.platform.services import MARKER as PLATFORM
from rlhf_core.errors import LAST_LINES
from rlhf_core.live.reply_log import VARIABLE, remove_unfinished
from rlhf_core.live.serving import server_command, server_environment
from rlhf_core.sampling.shared_blocks import unlink_blocks_of
from tasks.execution.launcher import has_cuda
from tasks.execution.stage_python import stage_python
from tasks.live.versions import ServedVersion
from tasks.records.process_identity import ProcessIdentity

END_SECONDS, LEFT_SECONDS = 60.0, 2.0
# served folder, model, port, further arguments -> the command of an OpenAI server
Command = Callable[[Path, str, int, tuple[str, ...]], list[str]]


def vllm_command(folder: Path, model: str, port: int, further: tuple[str, ...]) -> list[str]:
    """Return the command of vLLM's server for this machine."""
    python = stage_python()
    return server_command(folder, model, port, further, cuda=has_cuda(), python=python)


def start_server(place: LiveFolder, served: ServedVersion, command: Command) -> ModelServer:
    """Start the server of a version; it does not answer yet."""
    port, key = free_port(), secrets.token_urlsafe(24)
    further = options.vllm if (options := place.options()) else ()
    started = _started(
        place,
        command(served.folder, served.model, port, further),
        place.path / f"version-{served.version}.log",
        server_environment(key, cuda=has_cuda()),
    )
    about = {"version": served.version, "digest": served.digest, "model": served.model, "key": key}
    return ModelServer(port=port, **started, **about)


def start_router(place: LiveFolder, options: LiveOptions) -> LiveProcess:
    """Start the router, with a log where one is asked for.

    No other router of the model may run. Raises BadInput where its port is taken.
    """
    port = choose_port(options.port, options.port)
    place.replies.mkdir(exist_ok=True)
    remove_unfinished(place.replies)
    settings = {"folder": str(place.replies), "rate": options.log_rate, "redact": options.redact}
    log = {VARIABLE: json.dumps(settings)} if options.log_rate else {}
    words = ["-m", "rlhf_core.live.router", place.name, str(place.path), str(port)]
    command = [sys.executable, "-P", *words]
    return LiveProcess(port=port, **_started(place, command, place.path / "router.log", log))


def _started(
    place: LiveFolder, command: list[str], log: Path, further: dict[str, str]
) -> dict[str, Any]:
    """Start a process, and return what is written of it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=live_environment(place) | further,
            start_new_session=True,
        )
    owner = ProcessIdentity.of(process.pid)
    return {"owner": owner, "log": log, "started": datetime.now(UTC)}


def live_environment(place: LiveFolder) -> dict[str, str]:
    """Return the environment of a live model's processes, which `rlhf down` leaves alone."""
    kept = {name: value for name, value in os.environ.items() if name != PLATFORM}
    return kept | {MARKER: str(place.path), "RLHF_HOME": str(place.workspace.home)}


def is_ready(server: LiveProcess) -> bool:
    """Return True when the server answers."""
    return answers(f"{server.root}/health")


def all_answer(state: LiveState) -> bool:
    """Return True when the router answers, and every server that gets requests."""
    routed = [state.servers.get(version) for version in state.shares]
    return (
        state.router is not None
        and requests(state.router) is not None
        and all(server is not None and is_ready(server) for server in routed)
    )


def free_names_of_blocks(server: ModelServer) -> None:
    """Remove the names of the shared memory of a server that answers, which it would leave."""
    try:
        leader = psutil.Process(server.owner.pid)
        unlink_blocks_of([leader.pid, *(child.pid for child in leader.children(recursive=True))])
    except psutil.Error:  # it has just ended
        return


def end_server(server: LiveProcess) -> None:
    """End a process group; replies under way get the server's time to end.

    What a killed leader has left of its group has no replies to give, and is killed soon.
    """
    sent = end_group(server.owner)
    end_all(group_of(server.owner), sent=sent, seconds=END_SECONDS if sent else LEFT_SECONDS)


def requests(router: LiveProcess) -> dict[str, dict[str, int]] | None:
    """Return how many requests are under way and answered, by model; None without an answer."""
    try:
        return json.loads(_get(f"{router.root}/requests"))
    except (OSError, ValueError):
        return None


def end_of_log(server: LiveProcess) -> str:
    """Return the last lines of a server's log."""
    lines = server.log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n  ".join(lines[-LAST_LINES:])


def _get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=2.0) as reply:
        return reply.read()
