"""The warm-up: what it says without a compiler or a working torch, and a killed build's lock."""

import os
import subprocess
import sys

from rlhf_core.engine.bootstrap import keep_extensions_here


def test_warm_up_without_a_compiler_says_how_to_install_one(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "CXX"} | {
        "PATH": str(tmp_path)
    }
    command = [sys.executable, "-m", "rlhf_core.engine.warmup"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (
        done.returncode == 2
        and "apt-get install g++" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_warm_up_with_a_torch_that_misses_its_libraries_names_the_index(tmp_path):
    (tmp_path / "torch.py").write_text(
        "raise OSError('libcudart.so.13: cannot open shared object file')"
    )
    command = [sys.executable, "-m", "rlhf_core.engine.warmup"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    assert (
        done.returncode == 2
        and "libcudart" in done.stderr
        and "index of the CPU builds" in done.stderr
    )


def test_warm_up_does_not_wait_for_the_lock_of_a_killed_build(monkeypatch):
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    folder = keep_extensions_here() / "deepspeed_shm_comm"
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lock").touch()
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_core.engine.warmup"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "lock").exists()
