"""A Ray cluster of several "hosts" on this machine: processes on free ports, ended by their ids.

Ray is not in the environment of the tests. It comes from its lock into a folder beside it, once.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tasks.execution.guarded_process import GuardedProcess

LOCK = Path(__file__).resolve().parents[3] / "infra" / "requirements" / "ray.txt"
HOME = Path(sys.prefix) / "ray"
SECONDS_TO_START = 120.0
PROGRAM = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
STORE_BYTES = 80 * 2**20  # Ray's smallest
GROUPS = """
import ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
table = ray.util.placement_group_table().values()
print(*[one["name"] for one in table if one["state"] != "REMOVED"])
"""


def packages() -> Path:
    """Return the folder of the locked packages; install them unless they are there."""
    HOME.mkdir(exist_ok=True)
    pins, stamp = LOCK.read_text(), HOME / ".ready"
    with (HOME / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != pins:
            words = ("--no-deps", "--upgrade", "--target", str(HOME), "--requirement", str(LOCK))
            subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *words], check=True)
            stamp.write_text(pins)
    return HOME


@dataclass
class RayHosts:
    """A cluster whose hosts have one CPU each."""

    folder: Path  # short: Ray's sockets are in it
    port: int
    processes: list[GuardedProcess] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        """The variables with which a program finds Ray and the cluster."""
        found = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "PYTHONPATH": os.pathsep.join(found),
            "RAY_ADDRESS": f"127.0.0.1:{self.port}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # 15 by default, with which ranks starve on a busy machine
            "RAY_memory_monitor_refresh_ms": "0",  # a busy machine is no reason to kill a rank
        }

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have this process's children find the cluster."""
        for name, value in self.variables.items():
            monkeypatch.setenv(name, value)

    def start_host(self) -> None:
        """Start a host, the head first, and wait until the cluster has it.

        It runs in a folder of its own, `home`: /proc/self/cwd is no folder that hosts share.
        """
        here = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        here += [f"--temp-dir={self.folder}", f"--ray-client-server-port={free_port()}"]
        there = [f"--address=127.0.0.1:{self.port}"]
        words = [*(there if self.processes else here), "--num-cpus=1", "--num-gpus=0", "--block"]
        words += [f"--object-store-memory={STORE_BYTES}", "--node-ip-address=127.0.0.1"]
        home = self.home(len(self.processes))
        home.mkdir()
        log = home.with_suffix(".log")
        with log.open("ab") as output:
            process = GuardedProcess(
                [sys.executable, "-c", PROGRAM, "start", *words],
                stdout=output,
                stderr=output,
                env=os.environ | self.variables,
                cwd=home,
            )
        self.processes.append(process)
        deadline = time.monotonic() + SECONDS_TO_START
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def home(self, number: int) -> Path:
        """Return the working folder of a host."""
        return self.folder / f"host-{number}"

    def groups(self) -> list[str]:
        """Return the names of the placement groups that the cluster holds."""
        done = subprocess.run(
            [sys.executable, "-c", GROUPS],
            env=os.environ | self.variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    def stop(self) -> None:
        """End every host by its process id, and what it has started."""
        started = [
            child
            for process in self.processes
            for child in psutil.Process(process.pid).children(recursive=True)
        ]
        for process in reversed(self.processes):
            process.end()
        for child in psutil.wait_procs(started, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def ray_hosts(count: int) -> Iterator[RayHosts]:
    """Run a cluster of so many hosts during the block."""
    packages()
    cluster = RayHosts(Path(tempfile.mkdtemp(prefix="ray-")), free_port())
    try:
        for _ in range(count):
            cluster.start_host()
        yield cluster
    finally:
        cluster.stop()
