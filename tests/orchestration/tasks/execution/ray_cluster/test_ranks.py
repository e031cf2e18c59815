"""Ranks on a real Ray cluster of two "hosts", both on this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import psutil
import pytest
import ray_hosts
from packaging.requirements import Requirement
from stages import section_spec

from rlhf_core.config import SFT, Distributed, RayPlacement
from rlhf_core.errors import BadInput, StageFailed
from rlhf_core.rundir import StageSpec, read_metrics, read_result
from tasks.execution import stage_process
from tasks.execution.ray_cluster.preflight import require_cluster

pytestmark = pytest.mark.slow
ON_TWO_HOSTS = Distributed(ranks=2, launcher="ray", ray=RayPlacement(ranks_per_host=1))
LONG = {"epochs": 20, "batch_size": 2}  # it must be killed before it ends by itself
NAMES = ("RANK", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "WORLD_SIZE")
PARENT = """
import sys
from pathlib import Path
from rlhf_core.config import Distributed
from rlhf_core.rundir import StageSpec
from tasks.execution import stage_process
from tasks.execution.ray_cluster.preflight import require_cluster
settings, spec, folder = sys.argv[1:]
stage_process.run_stage(
    StageSpec.model_validate_json(Path(spec).read_text()), Path(folder),
    distributed=Distributed.model_validate_json(settings),
)
"""


@pytest.fixture(scope="module")
def two_hosts() -> Iterator[ray_hosts.RayHosts]:
    with ray_hosts.ray_hosts(2) as cluster:
        yield cluster


@pytest.fixture
def cluster(two_hosts, monkeypatch) -> ray_hosts.RayHosts:
    two_hosts.use(monkeypatch)
    return two_hosts


@pytest.fixture(scope="module")
def make_spec(tiny_model, tiny_splits) -> Callable[..., StageSpec]:
    def make(**options: object) -> StageSpec:
        section = SFT(lr=3e-3, epochs=1, batch_size=18, checkpoint_every=2, micro_batch_tokens=128)
        names = ("demonstrations_train", "demonstrations_heldout")
        inputs = {"model": tiny_model} | {name: tiny_splits / f"{name}.jsonl" for name in names}
        return section_spec("sft", section.model_copy(update=options), inputs, train=True, ranks=2)

    return make


def ranks_of(folder: Path) -> list[psutil.Process]:
    """Return the living processes of a stage's ranks."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "rlhf_core" in words and str(folder / "spec.json") in words:
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and "RANK" in process.environ():
                    found.append(process)
    return found


def pythons_of(folder: Path) -> list[psutil.Process]:
    """Return the ranks themselves, without their guards."""
    return [one for one in ranks_of(folder) if "group_guard" not in " ".join(one.cmdline())]


def assert_nothing_left(folder: Path, cluster: ray_hosts.RayHosts) -> None:
    deadline = time.monotonic() + 30
    while (ranks_of(folder) or cluster.groups()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ranks_of(folder) == [] and cluster.groups() == []


def wait_for_a_step(folder: Path, run: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300  # on a busy machine
    while not read_metrics(folder / "metrics.jsonl"):
        assert time.monotonic() < deadline and run.poll() is None, (
            folder / "stage.log"
        ).read_text()
        time.sleep(0.1)


def test_the_lock_lacks_nothing_that_ray_needs():
    (ray,) = metadata.distributions(name="ray", path=[str(ray_hosts.packages())])
    needs = [Requirement(line) for line in ray.requires or () if "extra ==" not in line]
    assert needs and all(one.specifier.contains(metadata.version(one.name)) for one in needs)


def test_two_hosts_of_a_cluster_give_the_weights_of_two_ranks_of_one_host(
    cluster, make_spec, tmp_path
):
    spec, seen = make_spec(), {}

    def watch() -> None:
        for one in pythons_of(tmp_path / "ray"):
            with contextlib.suppress(psutil.Error):
                seen[one.pid] = one.environ()

    stage_process.run_stage(spec, tmp_path / "ray", distributed=ON_TWO_HOSTS, watch=watch)
    stage_process.run_stage(spec, tmp_path / "deepspeed", distributed=Distributed(ranks=2))
    ours, theirs = (read_result(tmp_path / name) for name in ("ray", "deepspeed"))
    assert ours.outputs["model"].digest == theirs.outputs["model"].digest
    assert ours.metrics == theirs.metrics
    assert sorted(tuple(one[name] for name in NAMES) for one in seen.values()) == [
        ("0", "0", "1", "0", "2", "2"),
        ("1", "0", "1", "1", "2", "2"),
    ]
    log = (tmp_path / "ray" / "stage.log").read_text()
    assert "ray: rank 0 is on" in log and "ray: rank 1 is on" in log
    assert_nothing_left(tmp_path / "ray", cluster)


def test_a_killed_rank_ends_the_other_and_the_stage_resumes_bit_for_bit(
    cluster, make_spec, tmp_path
):
    spec = make_spec(epochs=10)
    stage_process.run_stage(spec, tmp_path / "whole", distributed=ON_TWO_HOSTS)

    def watch() -> None:
        if len(read_metrics(tmp_path / "killed" / "metrics.jsonl")) >= 3:
            for one in pythons_of(tmp_path / "killed"):
                if one.environ()["RANK"] == "1":
                    one.kill()

    with pytest.raises(StageFailed, match=r"(?s)ended by signal 9.*rank 1 on .* by signal 9"):
        stage_process.run_stage(spec, tmp_path / "killed", distributed=ON_TWO_HOSTS, watch=watch)
    assert_nothing_left(tmp_path / "killed", cluster)
    stage_process.run_stage(spec, tmp_path / "killed", distributed=ON_TWO_HOSTS)
    ours, whole = (read_result(tmp_path / name) for name in ("killed", "whole"))
    assert ours.outputs["model"].digest == whole.outputs["model"].digest


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("who", ["run", "launcher"])
def test_a_killed_stage_leaves_no_rank_and_no_placement_group(
    cluster, make_spec, tmp_path, how, who
):
    (tmp_path / "spec.json").write_text(make_spec(**LONG).model_dump_json())
    words = [ON_TWO_HOSTS.model_dump_json(), str(tmp_path / "spec.json"), str(tmp_path / "run")]
    with (tmp_path / "parent.log").open("w") as log:
        parent = subprocess.Popen([sys.executable, "-c", PARENT, *words], stdout=log, stderr=log)
    try:
        wait_for_a_step(tmp_path / "run", parent)
        assert len(pythons_of(tmp_path / "run")) == 2 and len(cluster.groups()) == 1
        victims = {
            "run": [parent],
            "launcher": [
                child
                for child in psutil.Process(parent.pid).children(recursive=True)
                if "tasks.execution.ray_cluster" in child.cmdline()
                and "group_guard" not in " ".join(child.cmdline())
            ],
        }[who]
        assert len(victims) == 1
        victims[0].send_signal(how)
        parent.wait(60)
    finally:
        parent.kill()
    if who == "launcher":  # the stage says which signal it was
        assert f"ended by signal {how:d};" in (tmp_path / "parent.log").read_text()
    assert_nothing_left(tmp_path / "run", cluster)


def test_too_few_resources_are_refused_at_once(cluster, make_spec, tmp_path):
    three = Distributed(ranks=3, launcher="ray")
    spec = make_spec()
    started = time.monotonic()
    with pytest.raises(
        BadInput, match=r"room for 2 of 3 ranks, which need 1 CPU each; its hosts are"
    ):
        stage_process.run_stage(spec, tmp_path, distributed=three)
    assert time.monotonic() - started < 30


def test_a_folder_that_the_hosts_do_not_share_is_refused_at_once(
    cluster, make_spec, monkeypatch, tmp_path
):
    """The first host runs where this test does, so that /proc/self/cwd is the same folder there."""
    require_cluster(ON_TWO_HOSTS, tmp_path / "runs")
    monkeypatch.chdir(cluster.home(0))
    shared = Path("/proc/self/cwd/runs")
    unseen = r"host \S+ of the Ray cluster does not see /proc/self/cwd/runs.*Set RLHF_HOME to"
    with pytest.raises(BadInput, match=unseen):
        require_cluster(ON_TWO_HOSTS, shared)
    with pytest.raises(BadInput, match=unseen):
        stage_process.run_stage(make_spec(), shared / "sft", distributed=ON_TWO_HOSTS)
    assert not list(cluster.home(0).rglob(".shared-*"))
    assert_nothing_left(shared / "sft", cluster)


def test_resources_that_others_hold_are_waited_for_and_then_refused(cluster, make_spec, tmp_path):
    hold = """
import ray, time
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=1)
def busy(): time.sleep(600)
task = busy.remote(); time.sleep(3); print("held", flush=True); time.sleep(600)
"""
    with psutil.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            short = ON_TWO_HOSTS.model_copy(
                update={"ray": RayPlacement(ranks_per_host=1, wait_minutes=0.05)}
            )
            with pytest.raises(
                BadInput,
                match=r"no place for 2 ranks.* 1 on each host within distributed\.ray\.wait_m",
            ):
                stage_process.run_stage(make_spec(), tmp_path, distributed=short)
        finally:
            other.kill()
    assert "waiting for" in (tmp_path / "stage.log").read_text()
    assert_nothing_left(tmp_path, cluster)


def test_a_dead_address_is_refused_before_anything_trains(
    cluster, make_spec, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{ray_hosts.free_port()}")
    with pytest.raises(BadInput, match=r"no Ray cluster answers at 127\.0\.0\.1"):
        stage_process.run_stage(make_spec(), tmp_path, distributed=ON_TWO_HOSTS)


def test_a_host_that_dies_ends_the_stage(make_spec, tmp_path, monkeypatch):
    with ray_hosts.ray_hosts(2) as own:
        own.use(monkeypatch)

        def watch() -> None:
            if len(read_metrics(tmp_path / "metrics.jsonl")) >= 1:
                own.processes[1].kill()

        with pytest.raises(StageFailed, match=r"rank \d on .* (is lost|ended)"):
            stage_process.run_stage(
                make_spec(**LONG), tmp_path, distributed=ON_TWO_HOSTS, watch=watch
            )
        assert_nothing_left(tmp_path, own)
    assert os.environ["RAY_ADDRESS"]
