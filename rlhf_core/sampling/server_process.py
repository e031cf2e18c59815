"""vLLM's own server as a child of this process: start, requests, end.

Its routes that replace weights need no key. So it listens on a Unix socket in a folder that only
this user can enter, and on no port.
"""

import asyncio
import contextlib
import os
import shutil
import site
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import BinaryIO

import httpx
import psutil

from rlhf_core import ROOT
from rlhf_core.errors import StageFailed
from rlhf_core.sampling import queued_requests
from rlhf_core.sampling.shared_blocks import unlink_blocks_of

TIMEOUT_SECONDS = 1800.0  # to load the model, and to take new weights
GRACE_SECONDS = 10.0
TRACKER_SECONDS = 5.0  # for a resource tracker to remove what its process left
CONNECTIONS = 512  # concurrent requests; the others queue here
QUEUE_SECONDS = 0.002  # between two looks at the requests that the engine has
LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_SIZE",
    "CROSS_RANK",
    "CROSS_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
# Linux: a process asks to get SIGTERM when its parent dies; that stays when it becomes another
# program.
ENDS_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
)
SETTINGS = {
    "VLLM_SERVER_DEV_MODE": "1",  # registers the routes of the weight transfer
    "VLLM_LOGGING_LEVEL": "ERROR",  # below it warns that without a tokenizer it warms up less
    "VLLM_NO_USAGE_STATS": "1",
}


class ServerProcess:
    """A vLLM server that answers this process alone.

    Its output goes where this process's goes, into the stage's log.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str]):
        self._folder = tempfile.mkdtemp(prefix="rlhf-sampler-")  # mode 0700
        self._socket = str(Path(self._folder) / "socket")
        server = [
            sys.executable,
            "-P",  # a file of the current folder must not take a library's place
            "-m",
            "vllm.entrypoints.openai.api_server",
            *arguments,
            "--uds",
            self._socket,
        ]
        command = [sys.executable, "-P", "-c", ENDS_WITH_PARENT, *server]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(environment),
        )
        self._workers: list[psutil.Process] = []
        ended = threading.Event()
        self._output = threading.Thread(
            target=_forward_output, args=(self._process.stdout, ended), daemon=True
        )
        self._output.start()
        # called here, when the object goes, or when this process ends
        self.close = weakref.finalize(self, _end, self._process, self._workers, self._folder, ended)
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=self._socket),
            base_url="http://sampler",
            timeout=TIMEOUT_SECONDS,
        )

    def wait_until_ready(self) -> None:
        """Return when the server answers.

        Raises StageFailed when it ends first, or does not answer within TIMEOUT_SECONDS.
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                if self._client.get("/health").status_code == httpx.codes.OK:
                    self._note_workers()
                    unlink_blocks_of([self._process.pid, *(one.pid for one in self._workers)])
                    return
            except httpx.TransportError:  # it does not listen yet
                pass
            self._note_workers()
            time.sleep(0.1)
        raise self.failure("its start")

    def _note_workers(self) -> None:
        """Note the server's processes, which live on where the server alone is killed."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._workers[:] = psutil.Process(self._process.pid).children(recursive=True)

    def post(self, path: str, body: dict | None = None) -> dict:
        """Return the answer to one request. Raises StageFailed when it fails, or gets none."""
        try:
            return _answer(self._client.post(path, json=body), path)
        except httpx.TransportError as error:
            raise self.failure(path) from error

    def post_all(self, path: str, bodies: list[dict]) -> list[dict]:
        """Make requests all at once; return the answers in their order.

        The engine begins when it has all of them, CONNECTIONS at most, so that the same requests
        have the same answers to the last bit. Raises StageFailed as `post` does.
        """
        try:
            return asyncio.run(self._post_all(path, bodies))
        except httpx.TransportError as error:
            raise self.failure(path) from error

    async def _post_all(self, path: str, bodies: list[dict]) -> list[dict]:
        async with self._connections(CONNECTIONS) as client, self._connections(1) as control:
            await _asked(control, "POST", "/pause?mode=wait")
            asked = [asyncio.create_task(_asked(client, "POST", path, one)) for one in bodies]
            queued = 0
            while queued < min(len(bodies), CONNECTIONS) and not any(one.done() for one in asked):
                await asyncio.sleep(QUEUE_SECONDS)
                queued = (await _asked(control, "GET", queued_requests.PATH))["queued"]
            await _asked(control, "POST", "/resume")
            return await asyncio.gather(*asked)

    def _connections(self, most: int) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=most)
        transport = httpx.AsyncHTTPTransport(uds=self._socket, limits=limits)
        return httpx.AsyncClient(transport=transport, base_url="http://sampler", timeout=None)

    def failure(self, doing: str) -> StageFailed:
        """End the server; return the error that says what became of it."""
        try:
            code = self._process.wait(GRACE_SECONDS)  # its socket closes before it has ended
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            how = "runs but does not answer"
        self._output.join(1.0)
        self.close()
        return StageFailed(
            f"the sampler's server (vLLM, process {self._process.pid}) {how}, at {doing}; its own"
            " words are above in the log. If its device had too little memory, lower"
            " ppo.sampling.kv_cache_mib or raise ppo.sampling.tensor_parallel."
        )


async def _asked(
    client: httpx.AsyncClient, method: str, path: str, body: dict | None = None
) -> dict:
    return _answer(await client.request(method, path, json=body), path)


def _answer(response: httpx.Response, path: str) -> dict:
    if response.status_code != httpx.codes.OK:
        raise StageFailed(
            f"the sampler's server answered {path} with {response.status_code}:"
            f" {response.text[:500]}"
        )
    return response.json() if response.headers.get("content-type") == "application/json" else {}


def _environment(given: dict[str, str]) -> dict[str, str]:
    """Return this process's environment without its rank, and with this project's packages."""
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    kept.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # a sampler in this process sets it
    folders = [site.getusersitepackages(), *site.getsitepackages()]
    if ROOT not in [Path(folder).resolve() for folder in folders]:
        # a folder of installed packages is found without this, and here would come before the
        # standard library
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return SETTINGS | kept | {"VLLM_SERVER_DEV_MODE": "1"} | given


def _forward_output(lines: BinaryIO, ended: threading.Event) -> None:
    """Copy the server's output to this process's standard error, until it is ended.

    Its last messages would bury what went wrong.
    """
    for line in lines:
        if not ended.is_set():
            os.write(2, line)


def _end(
    process: subprocess.Popen, workers: list[psutil.Process], folder: str, ended: threading.Event
) -> None:
    ended.set()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    trackers = [worker for worker in workers if _is_tracker(worker)]
    for worker in workers:  # a server that was killed leaves them
        if worker not in trackers:
            _kill(worker)
    # what a killed process leaves in /dev/shm is removed by its tracker, which then ends
    for tracker in psutil.wait_procs(trackers, timeout=TRACKER_SECONDS)[1]:
        _kill(tracker)
    shutil.rmtree(folder, ignore_errors=True)


def _is_tracker(process: psutil.Process) -> bool:
    """Return True for a resource tracker of Python's multiprocessing, or of joblib's."""
    with contextlib.suppress(psutil.Error):
        return any("resource_tracker" in word for word in process.cmdline())
    return False


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
