"""The origin of a run: the version of this code and the hardware of this machine."""

import os
import platform
import re
import subprocess
from pathlib import Path

from rlhf_core import ROOT, __version__
from tasks.records.shipped import code_files_digest, is_installed


def git_state() -> tuple[str, bool]:
    """Return the commit of this source tree, and True if there are uncommitted changes.

    An image has no git: there RLHF_COMMIT names the commit that it was built from. In a wheel, and
    in a tree without git, the code's version and the digest of its files stand for the commit:
    '0.2.0+3fa9c1d2e4b5', and False, because the digest covers every change. A wheel is never asked
    for its git commit: its environment may be in a repository of somebody else's code.
    The tree may belong to another user: git refuses to read that one by itself, because its hooks
    would run, but this process runs the tree's code already.
    """
    built_from = os.environ.get("RLHF_COMMIT", "")
    if re.fullmatch("[0-9a-f]{40}", built_from):
        return built_from, False

    if is_installed():
        return _version_and_digest(), False

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *words],
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout

    try:
        return git("rev-parse", "HEAD").strip(), bool(git("status", "--porcelain").strip())
    except (OSError, subprocess.CalledProcessError):
        return _version_and_digest(), False


def _version_and_digest() -> str:
    return f"{__version__}+{code_files_digest()[:12]}"


def short_commit(commit: str, digits: int = 7) -> str:
    """Return a commit's first digits; of a version with a digest, '<version>-<first digits>'."""
    version, plus, digest = commit.partition("+")
    return f"{version}-{digest[:digits]}" if plus else commit[:digits]


def hardware() -> dict[str, str]:
    """Return the processor, cores, memory (GiB) and GPUs of this machine."""
    gpus = [
        file.read_text(encoding="utf-8")
        for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    ]
    models = [
        line.partition(":")[2].strip()
        for text in gpus
        for line in text.splitlines()
        if line.startswith("Model")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
        "memory_gib": f"{memory:.1f}",
        "gpus": ", ".join(models) or "none",
    }
