"""Start a live model, look at it, and stop it: what `rlhf live` does."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from flows.platform.live import servers
from flows.platform.live.state import MARKER, LiveFolder, LiveOptions
from flows.platform.live.view import LiveView, view
from flows.platform.live.wish import LiveWish, options_of, require_same
from flows.platform.pages import choose_port
from flows.platform.processes import end_all, end_group, in_groups, marked
from rlhf_core.errors import LAST_LINES, BadInput, RLHFError
from rlhf_core.live.reply_log import remove_unfinished
from tasks.live.gateway import Gateway
from tasks.live.replies import store_rest
from tasks.live.scores import PAIRS
from tasks.live.versions import fetch_served, wanted_versions
from tasks.promotion.aliases import RegistryAliases
from tasks.stages.functions.source import source_of
from tasks.tracking.client import brief, connect

START_SECONDS = 1800.0  # a large model loads for minutes
END_SECONDS = 30.0  # for the replies under way when a live model is stopped
WATCHER, WATCH_LOG = "flows.platform.live.watch", "watch.log"
Tell = Callable[[str], None]


def start(registry: RegistryAliases, wish: LiveWish, tell: Tell) -> tuple[LiveView, bool]:
    """Serve the champion; return how it is, and False when nothing had to be changed.

    A live model's canary is changed as it runs. Raises BadInput for what cannot be served, and
    RLHFError when a server does not start; then what this call started is ended.
    """
    place = LiveFolder(registry.workspace, registry.name)
    with place.locked("lock", "starts or stops"):
        state, before = place.state(), place.options()
        runs = bool(state and state.runs)
        options = options_of(registry, wish, before, state)
        if before and state and (state.is_watched or runs):
            require_same(before, options)
        if before and state and state.is_watched:
            if before == options:
                if not (state.follows(options) and servers.all_answer(state)):
                    _wait(place, options)  # an earlier command was killed while it waited
                return view(place), False
            tell(_about(registry, options))
            _change(place, before, options)
            return view(place), True
        _require_servable(registry, options)
        if not (state and state.router and state.router.owner.is_running()):
            choose_port(options.port, options.port)
        tell(_about(registry, options))
        place.write(options)
        try:
            _wait(place, options, _start_watcher(place))
            if options.gateway:
                gateway = Gateway(options.tracking_uri)
                gateway.set_address(options.name, options.address)
                gateway.require_answer(options.name)
        except BaseException:
            if before and runs:  # the servers of a watcher that has died go on
                place.write(before)
            else:
                _end(place, tell)
            raise
        return view(place), True


def _change(place: LiveFolder, before: LiveOptions, options: LiveOptions) -> None:
    """Give the watcher other options; a canary that does not answer leaves the old ones.

    The end of a canary holds even where it cannot be waited for.
    """
    place.write(options)
    try:
        _wait(place, options)
    except BaseException:
        if options.canary:
            place.write(before)
        raise


def is_behind(place: LiveFolder, address: str) -> bool:
    """Return True for a live model whose gateway is the MLflow server at this address."""
    options = place.options()
    return options is not None and options.tracking_uri.rstrip("/") == address


def _require_servable(registry: RegistryAliases, options: LiveOptions) -> None:
    """Raise BadInput where the champion cannot be served, or there is no gateway as asked for."""
    if options.gateway:
        Gateway(options.tracking_uri).has(options.name)
    if options.shadow and not options.log_rate:
        raise BadInput(
            f"--shadow is {options.shadow:g}, and no reply is kept; expected requests that the"
            " candidate can answer too. Add --log SHARE, or --shadow 0."
        )
    if options.redact:
        source_of("--redact", options.redact, group=None, in_stage=False)
    fetch_served(registry, wanted_versions(registry).champion)


def _about(registry: RegistryAliases, options: LiveOptions) -> str:
    wanted = wanted_versions(registry, options.candidate, options.canary)
    canary = f", version {wanted.candidate} at {wanted.canary}%" if wanted.candidate else ""
    model = registry.model("policy")
    return f"serving version {wanted.champion} of {model}{canary} at {options.address} ..."


def stop(place: LiveFolder, tell: Tell) -> list[str]:
    """Stop a live model: its watcher, its router, its servers; return the versions that ran."""
    with place.locked("lock", "starts or stops"):
        return _end(place, tell)


def _start_watcher(place: LiveFolder) -> subprocess.Popen[bytes]:
    with (place.path / WATCH_LOG).open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", WATCHER, place.name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=servers.live_environment(place),
            start_new_session=True,
        )


def _wait(
    place: LiveFolder, options: LiveOptions, watcher: subprocess.Popen[bytes] | None = None
) -> None:
    """Return when requests are answered, by the canary too unless it is over.

    watcher: the one that was started for it, None for the one that runs. Raises RLHFError when a
    server or the watcher ends.
    """
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        state = place.state()
        if state and (watcher is None or state.watcher.pid == watcher.pid):
            if state.problem and state.options == options:
                raise RLHFError(f"{place.name} does not run as asked for: {state.problem}")
            if state.follows(options) and servers.all_answer(state):
                return
        if watcher is not None and watcher.poll() is not None:
            log = (place.path / WATCH_LOG).read_text(encoding="utf-8", errors="replace")
            tail = "\n  ".join(log.splitlines()[-LAST_LINES:])
            raise RLHFError(f"the watcher of {place.name} has ended; the end of its log:\n  {tail}")
        if watcher is None and not (state and state.is_watched):
            raise RLHFError(
                f"the watcher of {place.name} has ended, and changes nothing any more; what is"
                f" served goes on. rlhf live {place.name} starts a new one."
            )
        time.sleep(0.3)
    raise RLHFError(f"{place.name} did not answer within {START_SECONDS:g} s; see {place.path}.")


def _end(place: LiveFolder, tell: Tell) -> list[str]:
    """End watcher, gateway's endpoint, router and servers, and forget them."""
    end_all([process for process in marked(MARKER, str(place.path)) if _is_watcher(process)])
    options, state = place.options(), place.state()  # what the watcher wrote last
    try:
        if options and options.gateway:
            Gateway(options.tracking_uri).remove(options.name)
    except RLHFError as error:
        tell(f"the endpoint {place.name} stays in MLflow's gateway, to no server: {error}")
    if state and state.router:  # it gives the replies that are under way
        servers.end_server(state.router)
    found = list(state.servers.values()) if state else []
    ran = [server.version for server in found if server.owner.is_running()]
    sent = {server.version for server in found if end_group(server.owner)}
    for server in found:
        if server.version not in sent:
            servers.end_server(server)  # what a killed one has left of its group
    left = {server.owner.pid for server in found if server.version in sent} | _groups(
        marked(MARKER, str(place.path))
    )
    end_all(in_groups(left), sent=len(sent) == len(found), seconds=END_SECONDS)
    if options:
        _store_rest(place, options, tell)
    place.forget()
    return ran


def _store_rest(place: LiveFolder, options: LiveOptions, tell: Tell) -> None:
    """Store the last replies, and delete old ones, which nobody does any more from now on."""
    remove_unfinished(place.replies)
    (place.path / PAIRS).unlink(missing_ok=True)  # of a gate that was killed
    if not options.log_rate and options.keep_days is None:
        return
    try:
        client = connect(options.tracking_uri)
        store_rest(client, place.workspace, place.name, place.replies, options.keep_days)
    except Exception as error:
        text = str(error) if isinstance(error, RLHFError) else brief(error)
        tell(f"the last logged replies of {place.name} stay in {place.replies}: {text}")


def _groups(processes: list[psutil.Process]) -> set[int]:
    """Return the groups of processes that carry this model's marker."""
    found = set()
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            found.add(os.getpgid(process.pid))
    return found


def _is_watcher(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return WATCHER in process.cmdline()
    return False
