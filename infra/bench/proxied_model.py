"""A large model through MLflow's artifact proxy: time, memory of server and client, disk of server.

    .venv/stage/bin/python infra/bench/proxied_model.py [--gib 3] [--only multipart]

A random model of one safetensors file is registered and fetched, as a run and a reader of the
registry do it, with an MLflow server on an S3 server (object_folder.py): `proxied` through the
server, `multipart` by addresses that the server signs. Every part is a process of its own. The
memory is the peak of the proportional set sizes (PSS) of the server's processes, and of the client.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

WAYS = {"proxied": "false", "multipart": "true"}
GIB = 2**30
POLL_SECONDS, START_SECONDS = 0.1, 180
MAKE = """
import sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
folder, gib = Path(sys.argv[1]), float(sys.argv[2])
rows = int(gib * 2**30 / 2 / 4096 / 32)
make = np.random.default_rng(0)
weights = {f"w{i}": make.integers(0, 2**15, (rows, 4096), dtype=np.int16) for i in range(32)}
folder.mkdir()
save_file(weights, folder / "model.safetensors")
(folder / "config.json").write_text("{}", encoding="utf-8")
"""
REGISTER = """
import sys
from pathlib import Path
import tasks
from mlflow import MlflowClient
from rlhf_core.rundir import Artifact
from tasks.records.run_record import Registration
from tasks.registry import versions
artifact = Artifact.of(Path(sys.argv[1]))
client = MlflowClient()
logged = client.create_logged_model(client.create_experiment("bench"), name="policy")
wanted = Registration(model="bench-policy", stage="policy", artifact=artifact, tags={})
with versions.long_timeout():
    versions.store_model(client, logged, wanted)
versions.register(client, wanted, logged, {"digest": artifact.digest})
"""
FETCH = """
import sys
from pathlib import Path
import tasks
from mlflow import MlflowClient
from tasks.records.workspace import Workspace
from tasks.registry.fetching import fetch
found = MlflowClient().get_model_version("bench-policy", "1")
print(fetch(Workspace(Path(sys.argv[1])), found).digest)
"""


class Peaks:
    """The peak memory of two process trees and of a folder's files, bytes, while it is watched."""

    def __init__(self, server: int, client: int, folder: Path):
        """Begin to watch."""
        self.server = self.client = self.disk = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(server, client, folder))
        self._thread.start()

    def _watch(self, server: int, client: int, folder: Path) -> None:
        while not self._over.wait(POLL_SECONDS):
            self.server = max(self.server, _memory(server))
            self.client = max(self.client, _memory(client))
            self.disk = max(self.disk, _size(folder))

    def end(self) -> None:
        """Watch no longer."""
        self._over.set()
        self._thread.join()


def _memory(pid: int) -> int:
    total = 0
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
    return total


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def object_store(folder: Path):
    """Yield the variables with which clients find an S3 server whose objects are in `folder`."""
    port, program = free_port(), Path(__file__).with_name("object_folder.py")
    process = subprocess.Popen([sys.executable, str(program), str(folder), str(port)])
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": "password",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }
    finally:
        process.kill()
        process.wait()


@contextmanager
def server(folder: Path, store: dict[str, str]):
    """Yield the process id and the address of an MLflow server; temporary files are in `folder`."""
    port = free_port()
    (folder / "temporary").mkdir(parents=True)
    words = ["--port", str(port), "--workers", "1", "--serve-artifacts"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/db"]
    words += ["--artifacts-destination", f"s3://mlflow/{folder.name}"]
    given = {"TMPDIR": str(folder / "temporary"), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            env=os.environ | store | given,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=1)
                break
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"MLflow's server did not start:\n{_text(folder / 'log')}")
            time.sleep(0.2)
        yield process.pid, address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measured(code: str, argument: Path, environment: dict[str, str], watched: tuple) -> dict:
    """Run a part; return its seconds, the peaks in GiB, and what it printed last."""
    pid, folder = watched
    began, command = time.monotonic(), [sys.executable, "-c", code, str(argument)]
    client = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8")
    before, peaks = _memory(pid), Peaks(pid, client.pid, folder)
    output = client.communicate()[0]
    seconds = time.monotonic() - began
    peaks.end()
    if client.returncode:
        sys.exit(f"the client failed; the server's log:\n{_text(folder.parent / 'log')}")
    figures = {"server at rest": before, "server": peaks.server, "client": peaks.client}
    sizes = {name: round(size / GIB, 2) for name, size in figures.items()}
    disk = {"server's temporary files": round(peaks.disk / GIB, 2)}
    return {"seconds": round(seconds, 1)} | sizes | disk | {"printed": output.split()[-1:]}


def main() -> None:
    """Measure both ways and print a JSON line for each part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=3.0)
    parser.add_argument("--only", choices=WAYS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        root = Path(temporary)
        model = root / "model"
        subprocess.run([sys.executable, "-c", MAKE, str(model), str(given.gib)], check=True)
        for way in [given.only] if given.only else WAYS:
            stored = root / f"objects-{way}"
            with object_store(stored) as store, server(root / way, store) as (pid, address):
                variables = {
                    "MLFLOW_TRACKING_URI": address,
                    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": WAYS[way],
                    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": WAYS[way],
                }
                watched = (pid, root / way / "temporary")
                for part, code, argument in (
                    ("register", REGISTER, model),
                    ("fetch", FETCH, root / way / "home"),
                ):
                    found = measured(code, argument, os.environ | variables, watched)
                    print(json.dumps({"way": way, "part": part} | found), flush=True)


if __name__ == "__main__":
    main()
