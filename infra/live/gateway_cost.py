"""Measure what MLflow's AI Gateway costs per request: the same requests with and without it.

    .venv/stage/bin/python infra/live/gateway_cost.py [--requests N] [--server ADDRESS]

One client asks in turn: the server itself, and through a gateway that writes no traces, by each of
its routes, and that writes them. Without --server it asks a server without a model, which answers
at once, so that the difference is the gateway's work alone. The MLflow server is a fresh one on
SQLite with one worker, as of `rlhf up`. Median, 10th and 90th percentile are in milliseconds.
"""

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils.credentials import get_default_host_creds

from flows.platform.pages import answers, free_port
from rlhf_core import ROOT
from rlhf_core.live import router
from rlhf_core.live.routes import Route as ServerRoute
from rlhf_core.live.routes import RouteFile
from tasks.live.allowed import ALLOWED, CHAT, PASSTHROUGH
from tasks.live.gateway import Gateway

STUB = ROOT / "tests/support/servers/openai_stub.py"
QUESTION = [{"role": "user", "content": "how do i clean my old table at home ?"}]
NAMES = ("plain", "traced")  # of the endpoints, and so of the model that a server is asked for
WARM_UP = 20
Ask = Callable[[], float]


def main() -> None:
    """Measure, and print one line per way."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        server = args.server or stack.enter_context(_stub(Path(folder)))
        mlflow = stack.enter_context(_mlflow(Path(folder)))
        direct = stack.enter_context(_router(Path(folder), server))
        ways = _ways(server, mlflow, direct, args.tokens)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(args.requests + WARM_UP):
            for name, ask in ways.items():
                took = ask()
                if number >= WARM_UP:
                    seconds[name].append(took)
    print(f"load {os.getloadavg()[0]:.2f}, {args.requests} requests each, in turn")
    direct = statistics.median(seconds["direct"])
    for name, took in seconds.items():
        middle, tenths = statistics.median(took), statistics.quantiles(took, n=10)
        print(
            f"{name:22} median {1000 * middle:6.2f} ms  10% {1000 * tenths[0]:6.2f} ms"
            f"  90% {1000 * tenths[-1]:6.2f} ms"
            f"  above direct {1000 * (middle - direct):+7.2f} ms"
        )


def _ways(server: str, mlflow: str, routed: str, tokens: int) -> dict[str, Ask]:
    gateway = Gateway(mlflow)
    for name in NAMES:
        gateway.set_address(name, server)
    store = RestStore(lambda: get_default_host_creds(mlflow))
    traced = next(each for each in store.list_gateway_endpoints() if each.name == "traced")
    store.update_gateway_endpoint(traced.endpoint_id, usage_tracking=True)
    client = httpx.Client(trust_env=False, timeout=300)

    def way(base: str, name: str) -> Ask:
        body = {"model": name, "messages": QUESTION, "max_tokens": tokens, "temperature": 0}

        def ask() -> float:
            began = time.perf_counter()
            reply = client.post(f"{base}/chat/completions", json=body)
            took = time.perf_counter() - began
            assert reply.status_code == 200, reply.text
            return took

        return ask

    return {
        "direct": way(server, "plain"),
        "router of rlhf live": way(routed, "plain"),
        "gateway, chat route": way(mlflow + CHAT, "plain"),
        "gateway, passthrough": way(mlflow + PASSTHROUGH, "plain"),
        "gateway with traces": way(mlflow + PASSTHROUGH, "traced"),
    }


@contextlib.contextmanager
def _stub(folder: Path) -> Iterator[str]:
    port = free_port()
    command = (sys.executable, str(STUB), str(port), ",".join(NAMES))
    with _process(command, f"http://127.0.0.1:{port}/health", folder / "stub.log"):
        yield f"http://127.0.0.1:{port}/v1"


@contextlib.contextmanager
def _router(folder: Path, server: str) -> Iterator[str]:
    routes = RouteFile(folder / router.ROUTES)
    routes.write([ServerRoute(version="1", model="plain", address=server, key="none", share=100)])
    port = free_port()
    command = (sys.executable, "-m", "rlhf_core.live.router", "plain", str(folder), str(port))
    with _process(command, f"http://127.0.0.1:{port}/health", folder / "router.log"):
        yield f"http://127.0.0.1:{port}/v1"


@contextlib.contextmanager
def _mlflow(folder: Path) -> Iterator[str]:
    address = f"http://127.0.0.1:{(port := free_port())}"
    words = ("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--port", str(port), "-w", "1")
    command = (sys.executable, "-m", "mlflow", "server", *words)
    with _process(command, f"{address}/health", folder / "mlflow.log"):
        yield address


@contextlib.contextmanager
def _process(command: tuple[str, ...], health: str, log: Path) -> Iterator[None]:
    values = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env=os.environ | ALLOWED | values,
            start_new_session=True,
        )
    try:
        while not answers(health):
            if process.poll() is not None:
                sys.exit(log.read_text(encoding="utf-8"))
            time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=300, help="of each way")
    parser.add_argument(
        "--server", help="an OpenAI server without a key, with models plain, traced"
    )
    parser.add_argument("--tokens", type=int, default=48, help="max_tokens of each request")
    return parser.parse_args()


if __name__ == "__main__":
    main()
