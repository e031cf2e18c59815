"""The lock files come from pyproject.toml; `make setup` makes two environments of them."""

import py_compile
import subprocess
import sys
from importlib.util import cache_from_source
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
PROGRAM = ROOT / "infra" / "share_packages.py"
FILES = {"equal.py": ("a = 1\n", "a = 1\n"), "other.py": ("b = 1\n", "b = 2\n")}


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


# the environments


@pytest.fixture
def environments(tmp_path) -> tuple[Path, Path]:
    """Two folders of packages, the first compiled, after the program has shared their files."""
    first, second = (tmp_path / name / "lib/python3.11/site-packages" for name in ("one", "two"))
    for folder, number in ((first, 0), (second, 1)):
        folder.mkdir(parents=True)
        for name, texts in FILES.items():
            (folder / name).write_text(texts[number])
    py_compile.compile(str(first / "equal.py"))
    (second / "alone.py").write_text("c = 1\n")
    words = [sys.executable, str(PROGRAM), str(tmp_path / "one"), str(tmp_path / "two")]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return first, second


def test_equal_files_and_what_is_compiled_of_them_are_one_file(environments):
    first, second = environments
    assert (second / "equal.py").samefile(first / "equal.py")
    compiled = [Path(cache_from_source(str(folder / "equal.py"))) for folder in environments]
    assert compiled[1].samefile(compiled[0])
    assert (second / "other.py").read_text() == "b = 2\n" and not (first / "alone.py").exists()
    assert all(
        Path(cache_from_source(str(second / name))).exists() for name in ("other.py", "alone.py")
    )


def test_an_environment_changes_without_the_other_as_pip_changes_it(environments):
    first, second = environments
    (second / "equal.py").unlink()
    (second / "equal.py").write_text("a = 2\n")
    assert (first / "equal.py").read_text() == "a = 1\n"


def test_an_environment_of_before_with_torch_beside_the_commands_is_refused(tmp_path):
    (tmp_path / "lib" / "python3.11" / "site-packages" / "torch").mkdir(parents=True)
    words = ["make", "--no-print-directory", "setup", f"VENV={tmp_path}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and f"Remove it (rm -r {tmp_path})" in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "lib"]  # nothing was installed beside it
