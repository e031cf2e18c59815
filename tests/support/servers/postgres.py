"""A PostgreSQL for one test; as root, the account postgres runs it, since it refuses root."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = (
    next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)
    or Path(shutil.which("initdb") or "/").parent
)


@dataclass(frozen=True)
class Server:
    """A server on a port of 127.0.0.1, whose user postgres needs no password."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """The variables with which PostgreSQL's programs find it."""
        path = f"{PROGRAMS}:{os.environ['PATH']}"
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres", "PATH": path}

    def control(self, *words: str) -> None:
        """Run pg_ctl or initdb on its data."""
        program, *rest = words
        become = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [*become, str(PROGRAMS / program), "-D", str(self.folder / "data"), *rest]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.control("pg_ctl", "-o", options, "-l", str(self.folder / "log"), "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        self.control("pg_ctl", "-m", mode, "stop")


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Server]:
    """Run a server with its data in `folder`, which the account postgres can reach."""
    assert (PROGRAMS / "initdb").exists(), (
        "this test needs PostgreSQL's programs (Debian's package postgresql)"
    )
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Server(folder, probe.getsockname()[1])
    server.control("initdb", "-U", "postgres", "--auth=trust", "--no-sync")
    server.start()
    try:
        yield server
    finally:
        server.stop()
