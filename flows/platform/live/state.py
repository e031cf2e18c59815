"""Keep the options of `rlhf live`, and the processes that run.

options.json is written by the command, state.json and routes.json by the watcher alone. The keys of
the servers are in the last two. The owner alone may enter the folder.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from rlhf_core.errors import BadInput, RLHFError
from rlhf_core.live.router import HOST, ROUTES
from rlhf_core.live.routes import RouteFile
from rlhf_core.rundir import Frozen, write_atomically
from tasks.records.process_identity import ProcessIdentity
from tasks.records.workspace import Workspace

MARKER = "RLHF_LIVE"  # in the environment of every process of a live model: its folder
Read = TypeVar("Read", bound=Frozen)


class LiveOptions(Frozen):
    """The options of `rlhf live` for one registry name.

    port: of the address for clients. gateway: also as an endpoint of MLflow's AI Gateway. vllm:
    further arguments of vLLM's servers. canary: percent of the requests that `candidate` gets.
    asked: when that was asked for. log_rate: share of the replies that are logged; redact: the hook
    'module:function' of each logged text; keep_days: how long they are kept, None for ever.
    shadow: share of the champion's kept requests that the candidate answers too, in the gate.
    thumb: name of people's feedback that the gate counts.
    """

    name: str
    tracking_uri: str
    port: int
    gateway: bool = False
    vllm: tuple[str, ...] = ()
    candidate: str = ""
    canary: int = 0
    log_rate: float = 0.0
    redact: str = ""
    keep_days: int | None = None
    shadow: float = 0.0
    thumb: str = "thumb"
    asked: datetime | None = None

    @property
    def address(self) -> str:
        """The base address for OpenAI clients."""
        return f"http://{HOST}:{self.port}/v1"


class LiveProcess(Frozen):
    """A process of a live model, the leader of a process group of its own."""

    owner: ProcessIdentity
    port: int
    log: Path
    started: datetime

    @property
    def root(self) -> str:
        """The server's address, without a path."""
        return f"http://{HOST}:{self.port}"


class ModelServer(LiveProcess):
    """A vLLM server of one version. model: the name under which it serves."""

    version: str
    digest: str
    model: str
    key: str


class LiveState(Frozen):
    """The router, the servers by version, and percent of the requests by version.

    leaving: the versions that get no requests any more, and since when. ended: the canary that is
    over, by when it was asked for. problem: the last one, empty while all is well. options: those
    that the watcher's last step followed.
    """

    watcher: ProcessIdentity
    since: datetime
    router: LiveProcess | None = None
    servers: dict[str, ModelServer] = Field(default={})
    shares: dict[str, int] = Field(default={})
    leaving: dict[str, datetime] = Field(default={})
    ended: datetime | None = None
    problem: str = ""
    options: LiveOptions | None = None

    @property
    def is_watched(self) -> bool:
        """True while the watcher runs."""
        return bool(self.watcher.is_running())

    @property
    def runs(self) -> bool:
        """True while the router or a server runs."""
        return any(process.owner.is_running() for process in self.processes)

    @property
    def processes(self) -> list[LiveProcess]:
        """The router and the servers."""
        return [*([self.router] if self.router else []), *self.servers.values()]

    def running(self) -> "LiveState":
        """Return the state without what has ended, as everything has after a reboot."""
        servers = {v: server for v, server in self.servers.items() if server.owner.is_running()}
        router = self.router if self.router and self.router.owner.is_running() else None
        return self.model_copy(
            update={
                "router": router,
                "servers": servers,
                "shares": {v: share for v, share in self.shares.items() if v in servers},
                "leaving": {v: since for v, since in self.leaving.items() if v in servers},
            }
        )

    def follows(self, options: LiveOptions) -> bool:
        """Return True when the watcher has seen these options, and the requests go by them."""
        canary = 0 if options.asked == self.ended else options.canary
        found = self.shares.get(options.candidate) if len(self.shares) > 1 else 0
        return self.options == options and bool(self.shares) and found == canary


class LiveFolder:
    """The folder of one live model in a workspace."""

    def __init__(self, workspace: Workspace, name: str):
        self.workspace, self.name = workspace, name
        self.path = workspace.home / "live" / name

    @property
    def routes(self) -> RouteFile:
        """The routes that the router reads."""
        return RouteFile(self.path / ROUTES)

    @property
    def replies(self) -> Path:
        """The folder of logged replies that MLflow does not have yet."""
        return self.path / "replies"

    def options(self) -> LiveOptions | None:
        """Return the options, None where nothing is live."""
        return _read(self.path / "options.json", LiveOptions)

    def state(self) -> LiveState | None:
        """Return what runs, None before the watcher's first step."""
        return _read(self.path / "state.json", LiveState)

    def write(self, record: LiveOptions | LiveState) -> None:
        """Write options or state."""
        name = "options.json" if isinstance(record, LiveOptions) else "state.json"
        self._make()
        write_atomically(self.path / name, record.model_dump_json(indent=1))

    def forget(self) -> None:
        """Remove options, state and routes; the logs stay."""
        for name in ("options.json", "state.json", ROUTES):
            (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self, name: str, doing: str) -> Iterator[None]:
        """Hold the lock file `name` during the block; raise BadInput while another holds it."""
        self._make()
        with (self.path / name).open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(
                    f"another process {doing} {self.name} in {self.workspace.home}; expected one"
                    " at a time. Wait until it has ended, and look at rlhf live status."
                ) from None
            yield

    def _make(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.mkdir(exist_ok=True, mode=0o700)


def live_folders(workspace: Workspace) -> list[LiveFolder]:
    """Return the live models of a workspace, by name."""
    found = sorted((workspace.home / "live").glob("*/options.json"))
    return [LiveFolder(workspace, file.parent.name) for file in found]


def _read(file: Path, kind: type[Read]) -> Read | None:
    try:
        return kind.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise RLHFError(
            f"{file} is damaged ({error.error_count()} errors); end the processes whose environment"
            f" has {MARKER} by hand, and delete the file."
        ) from None
