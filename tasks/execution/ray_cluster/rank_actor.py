"""A rank on a host of a Ray cluster: an actor that starts it, hands on its output and ends it."""

import os
import select
import socket
import subprocess
import time
from pathlib import Path

from tasks.execution.guarded_process import GuardedProcess
from tasks.execution.launcher import BY_LAUNCHERS, SECRETS
from tasks.execution.ray_cluster.placement import RankPlace

FOLLOW_SECONDS = 0.5  # that an answer waits for output
GRACE_SECONDS = 5.0  # less than the guard's, within which the program that places ranks must end
CHUNK = 1 << 20
# that Ray sets in its workers, for Ray's own use
BY_RAY = ("PYTHONBREAKPOINT", "OMP_NUM_THREADS")


class RankProcess(GuardedProcess):
    """A rank whose guard outlives a worker of Ray that ends.

    A worker kills its direct children when it ends, and would so leave the guard's child alone. A
    shell between them keeps the guard, which then ends the rank.
    """

    before = ("/bin/sh", "-c", 'trap : TERM; "$@"; exit $?', "sh")


class RankActor:
    """One rank. Ray gives its process the resources of the rank, and its GPUs."""

    def __init__(self) -> None:
        self._process: RankProcess | None = None

    def place(self) -> RankPlace:
        """Return where this rank is."""
        import ray

        context = ray.get_runtime_context()
        devices = tuple(map(str, context.get_accelerator_ids().get("GPU", [])))
        return RankPlace(context.get_node_id(), ray.util.get_node_ip_address(), devices)

    def absent(self, paths: list[str]) -> list[str]:
        """Return those of the paths that this host does not see."""
        return [path for path in paths if not Path(path).exists()]

    def free_port(self) -> int:
        """Return a port of this host that nobody listens on."""
        with socket.socket() as listener:
            listener.bind(("", 0))
            return listener.getsockname()[1]

    def start(self, command: list[str], folder: str, variables: dict[str, str]) -> None:
        """Start the rank in a folder, with this worker's environment and the variables."""
        self._process = RankProcess(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment(dict(os.environ), variables),
        )

    def follow(self) -> tuple[bytes, int | None]:
        """Return new output within half a second, and the exit code once the rank has ended."""
        assert self._process is not None  # started before it is followed
        code = self._process.poll()
        output = self._read(0.0 if code is not None else FOLLOW_SECONDS)
        if code is None or output:  # what is left of the output comes first
            return output, None
        self._process.end()
        return b"", code

    def end(self) -> bytes:
        """End the rank and its children; return the rest of the output."""
        if self._process is None:
            return b""
        self._process.end(GRACE_SECONDS)
        return self._read(0.0)

    def _read(self, seconds: float) -> bytes:
        """Return output once there is some, b'' if there is none in time or it has ended."""
        assert self._process is not None and self._process.stdout is not None
        output = self._process.stdout.fileno()
        ready, _, _ = select.select([output], [], [], seconds)
        data = os.read(output, CHUNK) if ready else b""
        if ready and not data and seconds:  # closed by the rank, which has not ended yet
            time.sleep(seconds)
        return data


def environment(worker: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    """Return a rank's environment: that of Ray's worker on its host, with the given variables.

    Left out: what other launchers and Ray set for themselves, and MLflow's settings.
    """
    kept = {
        name: value
        for name, value in worker.items()
        if name not in (*BY_LAUNCHERS, *BY_RAY) and not name.startswith((SECRETS, "RAY_"))
    }
    return kept | given
