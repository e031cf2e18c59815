"""vLLM's own server as the sampler.

It gives the replies of the sampler in this process, takes weights by vLLM's transfer, and has a
clear end.
"""

import json
import os
import random
import re
import signal
import stat
from pathlib import Path

import psutil
import pytest
import torch
from stages import assert_equal_weights, finish, kill_after_steps, section_spec, start

from rlhf_core.config import PPO, Sampling
from rlhf_core.errors import BadInput, StageFailed
from rlhf_core.modeling.models import load_policy
from rlhf_core.ppo.timeline import TIMELINE
from rlhf_core.rundir import read_metrics
from rlhf_core.sampling.factory import open_sampler
from rlhf_core.sampling.server_process import ServerProcess
from rlhf_core.sampling.vllm_server import VLLMServerSampler, devices_left

SHARED = Path("/dev/shm")
EOS = 1
PROMPTS = [[7, 8, 9, 10], [11], [12, 13, 14, 15, 16, 17, 18], [9, 9], [20, 21, 22], [7, 8, 9, 10]]
SEEDS = [11, 12, 13, 14, 15, 16]
CONFIG = Sampling(max_new_tokens=24, kv_cache_mib=32, temperature=0.9)


def open_one(model: Path, **changes):
    return open_sampler(
        model, CONFIG.model_copy(update=changes), max_prompt_tokens=7, dtype="float32"
    )


def other_weights(model: Path, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        name: tensor + 0.3 * torch.randn_like(tensor)
        for name, tensor in load_policy(model).model.state_dict().items()
    }


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [
        one
        for one in psutil.wait_procs(processes, timeout=20)[1]
        if one.status() != psutil.STATUS_ZOMBIE
    ]


def shared_names(tree: list[psutil.Process]) -> set[Path]:
    """Return the files in /dev/shm of these processes, which take memory until a restart."""
    maps = "".join(Path(f"/proc/{one.pid}/maps").read_text() for one in tree)
    blocks = {Path(name) for name in re.findall(r"/dev/shm/psm_\w+", maps)}
    assert len(blocks) > 1  # of messages to the workers, and of their answers
    return blocks


def left_in_shared_memory(names: set[Path], tree: list[psutil.Process]) -> list[Path]:
    """Return which of the names are there, and the semaphores of the processes."""
    semaphores = [file for one in tree for file in SHARED.glob(f"sem.loky-{one.pid}-*")]
    return [*(name for name in names if name.exists()), *semaphores]


@pytest.fixture(scope="module")
def served(tiny_model):
    sampler = open_one(tiny_model, own_devices=1)
    yield sampler
    sampler.close()


@pytest.mark.slow
def test_replies_are_those_of_the_sampler_in_this_process_before_and_after_new_weights(
    served, tiny_model
):
    assert isinstance(served, VLLMServerSampler)
    here = open_one(tiny_model)
    seen = []
    for weights in (None, other_weights(tiny_model, 1), other_weights(tiny_model, 2)):
        for sampler in (served, here):
            if weights:
                assert sampler.sync(weights.items()) > 0
        ours, theirs = (
            sampler.generate(PROMPTS, seeds=SEEDS, eos_id=EOS) for sampler in (served, here)
        )
        assert [one.tokens for one in ours] == [one.tokens for one in theirs]
        assert [one.ended for one in ours] == [one.ended for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        seen.append([one.tokens for one in ours])
    assert seen[0] != seen[1] != seen[2]
    here.close()


@pytest.mark.slow
def test_the_same_requests_get_the_same_answers_to_the_last_bit(served):
    """The engine would begin with the first request that arrives, alone."""
    rng = random.Random(1)
    prompts = [[rng.randrange(6, 60) for _ in range(rng.randint(1, 7))] for _ in range(40)]
    asked = {"seeds": list(range(40)), "eos_id": EOS}
    first, *others = [served.generate(prompts, **asked) for _ in range(6)]
    assert all(one == first for one in others)


@pytest.mark.slow
def test_only_this_user_can_reach_the_server(served):
    folder = Path(served._server._socket).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder.stat().st_uid == os.getuid()


@pytest.mark.slow
def test_a_request_that_the_server_refuses_is_an_error_with_its_words(served):
    with pytest.raises(StageFailed, match=r"answered /inference/v1/generate with 4\d\d: .*token"):
        served.generate([[7] * 60], seeds=[1], eos_id=EOS)


@pytest.mark.slow
def test_a_killed_server_is_a_clear_error_and_leaves_nothing_behind(served, tiny_model):
    """The last test of this server."""
    folder = Path(served._server._socket).parent
    tree = [
        psutil.Process(served._server._process.pid),
        *psutil.Process(served._server._process.pid).children(recursive=True),
    ]
    assert len(tree) > 1
    names = shared_names(tree)
    os.kill(tree[0].pid, signal.SIGKILL)
    with pytest.raises(
        StageFailed, match=rf"process {tree[0].pid}\) was ended by signal 9, at .*kv_cache_mib"
    ):
        served.generate(PROMPTS, seeds=SEEDS, eos_id=EOS)
    with pytest.raises(StageFailed, match="was ended by signal 9"):
        served.sync(other_weights(tiny_model, 1).items())
    assert not alive(tree) and not folder.exists()
    assert left_in_shared_memory(names, tree) == []


@pytest.mark.slow
def test_a_worker_that_dies_while_weights_are_sent_is_a_clear_error(tiny_model):
    sampler = open_one(tiny_model, own_devices=1)
    server = psutil.Process(sampler._server._process.pid)
    tree = [server, *server.children(recursive=True)]
    worker = max(tree[1:], key=lambda one: one.memory_info().rss)

    def weights():
        for place, pair in enumerate(other_weights(tiny_model, 1).items()):
            if place == 3 and sampler._weights._metadata:
                worker.kill()
            yield pair

    class Again:
        def __iter__(self):
            return weights()

    with pytest.raises(
        StageFailed,
        match=r"the sampler's server \(vLLM, process \d+\) .*the transfer of new weights|answered",
    ):
        sampler.sync(Again())
    assert not alive(tree)


@pytest.mark.slow
def test_processes_that_are_all_killed_at_once_leave_no_shared_memory(tiny_model):
    sampler = open_one(tiny_model, own_devices=1)
    server = psutil.Process(sampler._server._process.pid)
    tree = [server, *server.children(recursive=True)]
    names = shared_names(tree)
    for one in tree:  # resource trackers too, which else would remove the blocks
        one.kill()
    assert not alive(tree)
    assert left_in_shared_memory(names, tree) == []
    sampler.close()


@pytest.mark.slow
def test_a_server_that_cannot_start_says_so(tmp_path):
    server = ServerProcess(["--model", str(tmp_path / "nowhere")], {})
    with pytest.raises(StageFailed, match=r"ended with exit code 1, at its start"):
        server.wait_until_ready()


@pytest.mark.parametrize(
    ("visible", "ranks", "count", "left"),
    [
        (["0", "1", "2", "3"], 2, 1, "3"),
        (["0", "1", "2", "3"], 2, 2, "2,3"),
        (["5", "GPU-a"], 1, 1, "GPU-a"),
    ],
)
def test_the_server_gets_the_last_devices(visible, ranks, count, left):
    assert devices_left(visible, ranks, count) == left


def test_devices_that_ranks_need_are_not_the_servers():
    with pytest.raises(
        BadInput,
        match="own_devices 2 beside 3 training ranks need 5 GPUs, this machine shows 4; lower one",
    ):
        devices_left(["0", "1", "2", "3"], 3, 2)


def servers(parent: int, model: Path) -> list[psutil.Process]:
    """VLLM servers of this model that are children of `parent`; 1: of a process that is gone."""
    found = psutil.process_iter(["ppid", "cmdline"])
    return [
        one
        for one in found
        if one.info["ppid"] == parent and {"--uds", str(model)} <= {*(one.info["cmdline"] or ())}
    ]


SERVED = PPO(
    steps=3,
    rollout_batch=16,
    minibatches=2,
    epochs=2,
    policy_lr=1e-3,
    critic_lr=1e-3,
    checkpoint_every=1,
    micro_batch_tokens=128,
    sampling=Sampling(max_new_tokens=12, kv_cache_mib=32, own_devices=1),
)


@pytest.mark.slow
def test_ppo_with_a_served_sampler_learns_the_same_though_killed_and_leaves_no_server(
    tiny_model, ppo_inputs, tmp_path
):
    apart = section_spec("ppo", SERVED, ppo_inputs)
    stage = start(apart, tmp_path / "apart")
    while not read_metrics(tmp_path / "apart" / "metrics.jsonl"):
        assert stage.poll() is None, (tmp_path / "apart" / "stage.log").read_text()[-3000:]
    found = servers(stage.pid, tiny_model)
    tree = [*found, *found[0].children(recursive=True)]
    stage.kill()  # this process alone, as no runner of stages does
    stage.wait()
    assert len(found) == 1 and not alive(tree)
    finish(apart, tmp_path / "apart")
    assert not servers(1, tiny_model)

    inside = SERVED.sampling.model_copy(update={"own_devices": 0})
    shared = section_spec("ppo", SERVED.model_copy(update={"sampling": inside}), ppo_inputs)
    finish(shared, tmp_path / "shared")
    ours, theirs = (
        [line["metrics"] for line in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("apart", "shared")
    )
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        names = [name for name in one if "second" not in name]
        assert {name: one[name] for name in names} == pytest.approx(
            {name: other[name] for name in names}, abs=1e-5, rel=1e-4
        )


AHEAD = SERVED.model_copy(update={"steps": 4, "max_rollout_age": 1, "importance_cap": 2.0})


def timeless(folder: Path) -> list[dict[str, float]]:
    lines = [line["metrics"] for line in read_metrics(folder / "metrics.jsonl")]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


@pytest.mark.slow
def test_rollouts_generated_ahead_repeat_and_resume_bit_for_bit_with_two_processes(
    ppo_inputs, tmp_path
):
    """Generation of the next step's responses lies beside the update, in the timeline too."""
    spec = section_spec("ppo", AHEAD, ppo_inputs)
    whole, again = finish(spec, tmp_path / "whole"), finish(spec, tmp_path / "again")
    assert_equal_weights(whole, again)
    kill_after_steps(spec, tmp_path / "killed", 2)
    assert_equal_weights(whole, finish(spec, tmp_path / "killed"))
    steps = timeless(tmp_path / "whole")
    assert timeless(tmp_path / "again") == timeless(tmp_path / "killed") == steps
    assert [step["ppo/rollout_age"] for step in steps] == [0, 1, 1, 1]
    first, *later = [step["ppo/sampler_kl"] for step in steps]
    assert first < 1e-6 < 1e-5 < min(later)
    lines = (tmp_path / "whole" / TIMELINE).read_text().splitlines()
    found = {(s["name"], s["track"], s["step"]): s for s in map(json.loads, lines)}
    for step in (1, 2, 3):
        ahead, score = found["generate", "sampler", step + 1], found["score", "learner", step]
        assert min(ahead["end"], score["end"]) > max(ahead["start"], score["start"])


@pytest.mark.slow
def test_a_sampler_that_is_killed_while_it_generates_ahead_ends_the_stage(ppo_inputs, tmp_path):
    long = AHEAD.sampling.model_copy(update={"max_new_tokens": 48})
    spec = section_spec("ppo", AHEAD.model_copy(update={"steps": 50, "sampling": long}), ppo_inputs)
    stage = start(spec, tmp_path / "ended")
    while not read_metrics(tmp_path / "ended" / "metrics.jsonl"):
        assert stage.poll() is None, (tmp_path / "ended" / "stage.log").read_text()[-3000:]
    (server,) = servers(stage.pid, ppo_inputs["policy"])
    tree = [server, *server.children(recursive=True)]
    server.kill()
    assert stage.wait(120) == 1 and not alive(tree)
    log = (tmp_path / "ended" / "stage.log").read_text()
    assert re.search(rf"process {server.pid}\) was ended by signal 9, at ", log), log[-3000:]
