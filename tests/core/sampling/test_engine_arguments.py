"""The arguments of vLLM's engine."""

from pathlib import Path

import pytest

from rlhf_core.config import Sampling
from rlhf_core.sampling.engine_arguments import as_flags, engine_arguments


@pytest.mark.parametrize(
    ("eager", "on_gpus", "on_a_cpu"), [("auto", False, True), (True, True, True), (False,) * 3]
)
def test_cuda_graphs_are_the_default_on_gpus_and_eager_on_a_cpu(eager, on_gpus, on_a_cpu):
    sampling = Sampling(eager=eager)
    assert (sampling.runs_eager(cuda=True), sampling.runs_eager(cuda=False)) == (on_gpus, on_a_cpu)


@pytest.mark.parametrize("eager", [True, False])
def test_the_server_gets_the_arguments_of_the_engine_in_this_process(eager):
    sampling = Sampling(eager=eager, kv_cache_mib=32, tensor_parallel=2)
    arguments = engine_arguments(Path("/models/policy"), sampling, length=11, dtype="float32")
    assert arguments["enforce_eager"] == eager
    flags = as_flags(arguments)
    assert ("--enforce-eager" in flags, "--no-enforce-eager" in flags) == (eager, not eager)
    assert "--enable-prefix-caching" in flags
    for flag, value in (
        ("--model", "/models/policy"),
        ("--max-model-len", "11"),
        ("--kv-cache-memory-bytes", str(32 * 2**20)),
        ("--tensor-parallel-size", "2"),
        ("--logprobs-mode", "processed_logprobs"),
    ):
        assert flags[flags.index(flag) + 1] == value


def test_an_adapter_gets_room_for_its_rank():
    arguments = engine_arguments(
        Path("policy"), Sampling(), length=8, dtype="float32", adapter_rank=9
    )
    assert (arguments["enable_lora"], arguments["max_lora_rank"]) == (True, 16)
