"""Check that this machine can run the pipeline, and say how to fix what is wrong."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from flows.platform import doctor_environment as surroundings
from flows.platform import prefect_address
from flows.platform.doctor_packages import (
    HealthCheck,
    lock_files,
    packages,
    python,
    stages,
    torch_build,
    torch_imports,
    version_of,
    vllm_imports,
)
from flows.platform.pages import MLFLOW_PORT, PREFECT_PORT, answers, port_is_free
from flows.platform.prefect_address import PrefectAddress
from rlhf_core.errors import BadInput
from rlhf_core.interpreter.installed import versions
from tasks.execution.launcher import has_cuda
from tasks.execution.stage_python import stage_python
from tasks.records.shipped import CONTROL
from tasks.records.workspace import Workspace
from tasks.tracking.address import EXPECTED, SERVERS, redacted, require_address

MEMORY_GIB = 4.0
DISK_GIB = {"warn": 10.0, "fail": 2.0}
GIB = 2**30


def examine(home: Path) -> Iterator[HealthCheck]:
    """Yield every check in order, as soon as its result is known. home: the workspace's folder."""
    yield python()
    yield (stage := stages())
    for lock in lock_files() if stage.level != "fail" else []:
        yield from packages(lock, versions() if lock.name == CONTROL else None)
    if stage.level == "ok":
        yield from _libraries()
        yield compiler()
        yield ninja()
    yield accelerator(cuda=has_cuda())
    yield memory()
    yield disk(home)
    yield port("MLflow port", MLFLOW_PORT, "--port")
    yield port("Prefect port", PREFECT_PORT, "--prefect-port")
    yield tracking(os.environ.get("MLFLOW_TRACKING_URI"))
    yield prefect_api(prefect_address.configured())
    yield surroundings.proxies()
    yield surroundings.home()
    yield surroundings.workspace(Workspace(home))
    yield surroundings.current_folder(Path.cwd())
    yield surroundings.left_servers()


def _libraries() -> Iterator[HealthCheck]:
    """Check that what the stages compute with is for this machine, and imports."""
    yield torch_build(version_of("torch"), cuda=has_cuda())
    torch = torch_imports()
    yield torch
    yield (
        vllm_imports()
        if torch.level == "ok"
        else HealthCheck("vllm", "fail", "not tried: torch does not import", torch.fix)
    )


# the machine


def accelerator(*, cuda: bool) -> HealthCheck:
    """Check the GPU, or count the CPU's cores."""
    cores = len(os.sched_getaffinity(0))
    if not cuda:
        return HealthCheck("accelerator", "ok", f"none; {cores} CPU cores")
    if smi := shutil.which("nvidia-smi"):
        query = [smi, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, encoding="utf-8")
        if done.returncode == 0:
            return HealthCheck("accelerator", "ok", "; ".join(done.stdout.strip().splitlines()))
    return HealthCheck(
        "accelerator",
        "warn",
        "a GPU's device file is there, but nvidia-smi does not answer",
        "install NVIDIA's driver",
    )


def compiler() -> HealthCheck:
    """Check the C++ compiler, which builds DeepSpeed's and vLLM's extensions."""
    name = os.environ.get("CXX") or "g++"
    if found := shutil.which(name):
        return HealthCheck("C++ compiler", "ok", found)
    fix = "install it (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++)"
    return HealthCheck("C++ compiler", "fail", f"{name!r} is not on PATH", fix)


def ninja() -> HealthCheck:
    """Check the build tool, which the extension builder starts by name."""
    beside = str(Path(stage_python()).parent)
    if found := shutil.which("ninja", path=os.pathsep.join([os.environ.get("PATH", ""), beside])):
        return HealthCheck("ninja", "ok", found)
    return HealthCheck(
        "ninja", "fail", "neither on PATH nor in the environment", "pip install ninja"
    )


def memory_limit() -> int | None:
    """Return the container's memory limit in bytes, or None without one."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if (
            Path(file).exists()
            and (text := Path(file).read_text(encoding="utf-8").strip()).isdigit()
        ):
            return int(text)
    return None


def memory() -> HealthCheck:
    """Check the free memory; the quickstart needs 4 GiB."""
    import psutil

    now = psutil.virtual_memory()
    total = min(now.total, memory_limit() or now.total)
    free = min(now.available, total)
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < MEMORY_GIB * GIB:
        return HealthCheck(
            "memory",
            "warn",
            f"{found}, the quickstart needs {MEMORY_GIB:.0f}",
            "end other programs, or take a larger machine",
        )
    return HealthCheck("memory", "ok", found)


def disk(home: Path) -> HealthCheck:
    """Check the free disk where the workspace is."""
    free = shutil.disk_usage(home).free / GIB
    found = f"{free:.1f} GiB free at {home}"
    for level in ("fail", "warn"):
        if free < DISK_GIB[level]:
            fix = "delete old runs in the workspace's runs/, or point RLHF_HOME at a larger disk"
            return HealthCheck("disk", level, found, fix)
    return HealthCheck("disk", "ok", found)


# the services


def port(name: str, number: int, option: str) -> HealthCheck:
    """Check that `rlhf ui` gets its usual port."""
    if port_is_free(number):
        return HealthCheck(name, "ok", f"{number} is free")
    fix = (
        "nothing if that is your server; else end what listens there, or choose one: rlhf ui"
        f" {option} N"
    )
    return HealthCheck(name, "warn", f"{number} is taken", fix)


def tracking(uri: str | None) -> HealthCheck:
    """Check that MLflow's store can be reached; training goes on without it."""
    if not uri:
        return HealthCheck(
            "MLflow", "ok", "MLFLOW_TRACKING_URI is not set: SQLite in the workspace"
        )
    try:
        require_address(uri)
    except BadInput as error:
        return HealthCheck("MLflow", "fail", str(error), f"use {EXPECTED}, or unset it")
    name = f"MLFLOW_TRACKING_URI={redacted(uri)}"
    if urlsplit(uri).scheme in SERVERS:
        if answers(uri.rstrip("/") + "/health"):
            return HealthCheck("MLflow", "ok", f"{name} answers")
        fix = (
            "start the server, or unset it. Runs go on meanwhile; `rlhf sync` forwards them when it"
            " is back"
        )
        return HealthCheck("MLflow", "warn", f"{name} does not answer", fix)
    return HealthCheck("MLflow", "ok", name)


def prefect_api(address: PrefectAddress | None) -> HealthCheck:
    """Check that the Prefect server answers.

    Without an address the pipeline starts a server of its own for the run.
    """
    if address is None:
        return HealthCheck(
            "Prefect", "ok", "PREFECT_API_URL is not set: a server for the length of a run"
        )
    found = f"{redacted(address.url)}, set by {address.place},"
    if answers(address.url.rstrip("/") + "/health"):
        return HealthCheck("Prefect", "ok", f"{found} answers")
    fix = (
        f"start it (prefect server start), correct the address (it ends in /api), or {address.fix}"
    )
    return HealthCheck("Prefect", "fail", f"{found} does not answer", fix)
