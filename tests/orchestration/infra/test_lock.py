"""The lock files come from pyproject.toml: one entry a package, with the digests of its files."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_core import ROOT

EXPORTED = """\
jinja2==3.1.6 ; sys_platform == 'linux' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
torch==2.13.0+cpu ; sys_platform == 'linux'
uvicorn[standard]==0.54.0 \\
    --hash=sha256:cc
"""


@pytest.fixture
def lock(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "infra"))
    import lock as module

    yield module
    sys.modules.pop("lock", None)


def test_an_entry_has_its_digests_and_no_platform(lock, tmp_path):
    entries = lock._entries(EXPORTED, {"torch": "dd"})
    assert entries["jinja2"] == "jinja2==3.1.6 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    assert entries["torch"] == "torch==2.13.0+cpu \\\n    --hash=sha256:dd\n"
    file = tmp_path / "cpu.txt"
    file.write_text("# a note==1\n" + "".join(entries.values()), encoding="utf-8")
    assert lock.pins(file) == {"jinja2": "3.1.6", "torch": "2.13.0+cpu", "uvicorn": "0.54.0"}


def test_a_cuda_build_of_torch_is_no_cpu_lock(lock, tmp_path, monkeypatch):
    def download(command: list[str], **_: object) -> None:
        Path(command[-2], "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(b"")

    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(SystemExit, match=r"expected a CPU build\. Set PIP_EXTRA_INDEX_URL"):
        lock.torch_wheel(tmp_path / "wheels", {"torch": "2.13.0+cpu"})


@pytest.mark.slow
def test_the_lock_files_are_what_the_project_resolves_to():
    done = subprocess.run(
        ["make", "lock", "LOCK=--check"], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0 and "no lock file changes" in done.stdout, done.stdout + done.stderr
