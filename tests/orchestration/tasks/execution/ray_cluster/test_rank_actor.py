"""A rank on its host: output, exit code, end. The actor's class runs here without Ray."""

import signal
import socket
import sys
import time

import psutil

from tasks.execution.ray_cluster.rank_actor import RankActor, environment


def followed(actor: RankActor) -> tuple[bytes, int]:
    """Follow a rank to its end."""
    said, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        output, code = actor.follow()
        said += output
        if code is not None:
            return said, code
    raise AssertionError(said)


def started(code: str, folder: object, **variables: str) -> RankActor:
    actor = RankActor()
    actor.start([sys.executable, "-uc", code], str(folder), variables)
    return actor


def test_output_comes_before_the_exit_code_and_nothing_is_lost(tmp_path):
    code = "import os, sys; print(os.getcwd(), os.environ['RANK']); print('x' * 3_000_000)"
    said, ended = followed(started(code + "; sys.exit(2)", tmp_path, RANK="1"))
    assert said.decode() == f"{tmp_path} 1\n{'x' * 3_000_000}\n" and ended == 2


def test_a_rank_that_a_signal_ends_has_the_shells_exit_code(tmp_path):
    code = (
        "import os, signal; print('soon', file=__import__('sys').stderr); os.kill(os.getpid(), 9)"
    )
    assert followed(started(code, tmp_path)) == (b"soon\n", 128 + signal.SIGKILL)


def test_ending_a_rank_ends_its_children_and_keeps_what_it_said(tmp_path):
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(child.pid)
time.sleep(300)
"""
    actor = started(code, tmp_path)
    said = b""
    while not said.endswith(b"\n"):
        said += actor.follow()[0]
    assert actor.end() == b""
    child = int(said)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


def test_the_end_of_a_rays_worker_that_kills_its_children_ends_the_rank(tmp_path):
    """Ray's workers kill their direct children, and then are gone."""
    worker = f"""
import os, signal, sys, time
from tasks.execution.ray_cluster.rank_actor import RankActor
actor = RankActor()
actor.start([sys.executable, "-uc", "import os, time; print(os.getpid()); time.sleep(300)"],
            {str(tmp_path)!r}, {{}})
said = b""
while not said:
    said, _ = actor.follow()
print(int(said), flush=True)
os.kill(actor._process.pid, signal.SIGKILL)
os._exit(1)
"""
    with psutil.Popen([sys.executable, "-c", worker], stdout=-1, text=True) as process:
        rank = int(process.stdout.readline())
        process.wait(30)
    if psutil.pid_exists(rank):
        assert psutil.wait_procs([psutil.Process(rank)], timeout=30)[1] == []


def test_a_rank_gets_its_workers_environment_without_what_is_for_others():
    worker = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "3",
        "JUDGE_API_KEY": "of this host",
        "RAY_JOB_ID": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONBREAKPOINT": "ray.util.rpdb.set_trace",
        "WORLD_SIZE": "64",
        "MLFLOW_TRACKING_PASSWORD": "canary",
    }
    given = {"CUDA_VISIBLE_DEVICES": "2,3", "RANK": "1"}
    assert environment(worker, given) == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "2,3",
        "JUDGE_API_KEY": "of this host",
        "RANK": "1",
    }


def test_what_a_host_lacks_is_named(tmp_path):
    assert RankActor().absent([str(tmp_path), "/nowhere", sys.executable]) == ["/nowhere"]


def test_a_free_port_can_be_listened_on():
    port = RankActor().free_port()
    with socket.socket() as listener:
        listener.bind(("", port))
        assert listener.getsockname()[1] == port
