"""A cluster that cannot be used: one clear error, in the words of whoever starts the run."""

import os
import socket
import subprocess
import sys

import pytest

from rlhf_core.errors import BadInput
from tasks.execution.ray_cluster import cluster


def test_without_the_package_the_error_says_how_to_install_it():
    """The environment of the tests has no Ray."""
    with pytest.raises(BadInput, match=r"not installed in .*rlhf-pipeline\[ray\].*ray\.txt"):
        cluster.require_installed()


@pytest.mark.parametrize("address", ["ray://head:10001", "local", "node1", "node1:ray"])
def test_an_address_that_is_none_of_a_head_is_refused(address):
    with pytest.raises(BadInput, match=r"expected HOST:PORT .*ray start --head"):
        cluster.require_answer(address)


def test_a_dead_address_is_refused_at_once():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(BadInput, match=rf"no Ray cluster answers at 127\.0\.0\.1:{port} \(RAY_"):
        cluster.require_answer(f"127.0.0.1:{port}")


def test_the_program_refuses_in_one_line_and_leaves_why_in_the_run_directory(tmp_path):
    words = ['{"ranks": 2, "launcher": "ray"}', "sft", str(tmp_path / "spec.json"), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-uP", "-m", "tasks.execution.ray_cluster", *words],
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "not installed" in (tmp_path / "failure.json").read_text()
