"""vLLM's own server as a child of this process: started, asked, ended.

Its routes that replace weights ask for no key, so it listens on a Unix socket in a folder that only
this user can enter, and on no port.
"""

import asyncio
import contextlib
import os
import shutil
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

from rlhf_core.errors import StageFailed

PATIENCE_SECONDS = 1800.0  # to load the model, and to take new weights
GRACE_SECONDS = 10.0
CONNECTIONS = 512  # requests on their way at once; the others queue here
ROOT = Path(__file__).resolve().parents[2]
LEFT_BY_LAUNCHERS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_SIZE",
    "CROSS_RANK",
    "CROSS_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
# Linux: a process asks for SIGTERM when its parent dies, and stays asked when it becomes another
# program.
ENDS_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
)
SETTINGS = {
    "VLLM_SERVER_DEV_MODE": "1",  # registers the routes of the weight transfer
    "VLLM_LOGGING_LEVEL": "ERROR",  # without a tokenizer it warns of what it cannot warm up
    "VLLM_NO_USAGE_STATS": "1",
}


class ServerProcess:
    """A vLLM server that answers this process alone; its words go where this process's go, into the
    stage's log.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str]):
        self._folder = tempfile.mkdtemp(prefix="rlhf-sampler-")  # mode 0700
        self._socket = str(Path(self._folder) / "socket")
        server = [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            *arguments,
            "--uds",
            self._socket,
        ]
        command = [sys.executable, "-c", ENDS_WITH_PARENT, *server]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(environment),
        )
        self._workers: list[psutil.Process] = []
        ended = threading.Event()
        self._words = threading.Thread(
            target=_hand_on, args=(self._process.stdout, ended), daemon=True
        )
        self._words.start()
        self.close = weakref.finalize(
            self, _end, self._process, self._workers, self._folder, ended
        )  # or with this process
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=self._socket),
            base_url="http://sampler",
            timeout=PATIENCE_SECONDS,
        )

    def wait_until_ready(self) -> None:
        """Return when it answers. Raises StageFailed when it ends first, or does not answer within
        PATIENCE_SECONDS.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                if self._client.get("/health").status_code == httpx.codes.OK:
                    self._workers += psutil.Process(self._process.pid).children(recursive=True)
                    return
            except httpx.TransportError:  # it does not listen yet
                pass
            time.sleep(0.1)
        raise self.failure("its start")

    def post(self, path: str, body: dict | None = None) -> dict:
        """The answer to one request. Raises StageFailed when there is none, or it is no success."""
        try:
            return _answer(self._client.post(path, json=body), path)
        except httpx.TransportError as error:
            raise self.failure(path) from error

    def post_all(self, path: str, bodies: list[dict]) -> list[dict]:
        """The answers to requests that are made at once, in their order. Raises StageFailed as
        `post` does.
        """
        try:
            return asyncio.run(self._post_all(path, bodies))
        except httpx.TransportError as error:
            raise self.failure(path) from error

    async def _post_all(self, path: str, bodies: list[dict]) -> list[dict]:
        transport = httpx.AsyncHTTPTransport(
            uds=self._socket, limits=httpx.Limits(max_connections=CONNECTIONS)
        )
        async with httpx.AsyncClient(
            transport=transport, base_url="http://sampler", timeout=None
        ) as client:
            return [
                _answer(found, path)
                for found in await asyncio.gather(*(client.post(path, json=one) for one in bodies))
            ]

    def failure(self, doing: str) -> StageFailed:
        """What became of the server, which is ended."""
        try:
            code = self._process.wait(GRACE_SECONDS)  # its socket closes before it has ended
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            how = "runs but does not answer"
        self._words.join(1.0)
        self.close()
        return StageFailed(
            f"the sampler's server (vLLM, process {self._process.pid}) {how}, at {doing}; its own"
            " words are above in the log. If its device had too little memory, lower"
            " ppo.sampling.kv_cache_mib or raise ppo.sampling.tensor_parallel."
        )


def _answer(response: httpx.Response, path: str) -> dict:
    if response.status_code != httpx.codes.OK:
        raise StageFailed(
            f"the sampler's server answered {path} with {response.status_code}:"
            f" {response.text[:500]}"
        )
    return response.json()


def _environment(given: dict[str, str]) -> dict[str, str]:
    """This process's, without what says which rank it is; the packages of this project are found in
    it.
    """
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_BY_LAUNCHERS}
    kept.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # a sampler in this process sets it
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return SETTINGS | kept | {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": path} | given


def _hand_on(words: BinaryIO, ended: threading.Event) -> None:
    """The server's words to this process's standard error, until it is ended: its farewell would
    bury what went wrong.
    """
    for line in words:
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
    for worker in workers:  # a server that was killed leaves them
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    shutil.rmtree(folder, ignore_errors=True)
