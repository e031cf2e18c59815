"""infra/slurm/rlhf.sbatch as SLURM runs it on a job's first node; `scontrol` is a stand-in."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "infra" / "slurm" / "rlhf.sbatch"


@pytest.fixture
def job(tmp_path):
    """Start the batch script in a job of `nodes` nodes with two GPUs each.

    `rlhf` is the text of a program to put in place of `.venv/bin/rlhf`; None takes the real one.
    """
    says = (
        f'#!/bin/sh\necho "$@" >>{tmp_path}/scontrol.log\nif [ "$1" = show ]; then printf'
        ' "n1\\nn2\\n"; fi\n'
    )
    (tmp_path / "scontrol").write_text(says)
    (tmp_path / "scontrol").chmod(0o755)
    real = (
        f'#!/bin/sh\ncd {ROOT}; exec {sys.executable} -c "import sys; from flows.cli.app import'
        ' main; sys.exit(main())" "$@"\n'
    )

    def start(*words: str, nodes: int, rlhf: str | None = None) -> subprocess.Popen:
        program = tmp_path / ".venv" / "bin" / "rlhf"
        program.parent.mkdir(parents=True)
        program.write_text(rlhf or real)
        program.chmod(0o755)
        given = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RLHF_HOME": str(tmp_path / "home"),
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_GPUS_ON_NODE": "2",
            "SLURM_JOB_NUM_NODES": str(nodes),
        }
        return subprocess.Popen(
            ["bash", str(SCRIPT), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | given,
        )

    return start


def launched(process: subprocess.Popen) -> dict[str, dict]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return {stage["stage"]: stage for stage in json.loads(out)}


def test_the_header_is_sbatchs(job):
    lines = [
        line.split(maxsplit=1)[1]
        for line in SCRIPT.read_text().splitlines()
        if line.startswith("#SBATCH")
    ]
    assert {"--ntasks-per-node=1", "--signal=B:USR1@120", "--requeue"} <= set(lines)
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0


def test_on_several_nodes_the_runner_gets_every_host_of_the_job(job, tmp_path):
    found = launched(job("quickstart", "--print-launch", "--json", nodes=2))
    for stage in ("sft", "reward", "ppo"):
        assert f"--hostfile={tmp_path}/home/hostfile-7" in found[stage]["command"]
        assert "--launcher=pdsh" in found[stage]["command"]
    assert "rlhf_core" in found["evaluate"]["command"] and "deepspeed" not in " ".join(
        found["evaluate"]["command"]
    )
    assert not list((tmp_path / "home").glob("hostfile-*"))


def test_on_one_node_no_ssh_is_needed(job):
    command = launched(job("quickstart", "--print-launch", "--json", nodes=1))["ppo"]["command"]
    assert "deepspeed.launcher.launch" in command and not any(
        "hostfile" in word for word in command
    )


RUN = """#!/bin/sh
trap 'kill $!; echo ended >>"$RLHF_HOME.log"; exit 143' TERM
cat "${4#*=}" >"$RLHF_HOME.log"
sleep 60 & wait
"""


@pytest.mark.parametrize(
    ("number", "code", "requeued"), [(signal.SIGUSR1, 0, True), (signal.SIGTERM, 143, False)]
)
def test_before_its_time_is_up_a_job_ends_its_run_and_is_requeued(
    job, tmp_path, number, code, requeued
):
    process = job("tiny", nodes=2, rlhf=RUN)
    log = tmp_path / "home.log"
    end = time.monotonic() + 30
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == code
    assert log.read_text() == "n1 slots=2\nn2 slots=2\nended\n"
    assert ("requeue 7" in (tmp_path / "scontrol.log").read_text()) is requeued
    assert not list((tmp_path / "home").glob("hostfile-*"))


def test_a_run_that_fails_fails_the_job_with_its_code(job):
    process = job(
        "quickstart",
        "--print-launch",
        "--set",
        "sft.offload_optimizer=true",
        "--set",
        "sft.zero_stage=0",
        nodes=1,
    )
    assert process.wait(120) == 2
