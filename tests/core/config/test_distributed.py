"""The ranks of a recipe: hosts and slots.

Impossible combinations are refused with both numbers and the remedy.
"""

import pytest

from rlhf_core.config import Distributed
from rlhf_core.errors import ConfigError


def hostfile(folder, text: str) -> str:
    (folder / "hosts").write_text(text)
    return str(folder / "hosts")


def test_hosts_come_from_the_hostfile_in_its_order(tmp_path):
    text = "# the cluster\nnode-b slots=4\n\nnode-a slots=8 # newer\n"
    distributed = Distributed(hostfile=hostfile(tmp_path, text))
    assert (
        list(distributed.hosts.items()) == [("node-b", 4), ("node-a", 8)]
        and distributed.world_size == 12
    )


@pytest.mark.parametrize(
    "text", ["", "# none\n", "node-a\n", "node-a slots=0\n", "node-a slots=2\nnode-a slots=2\n"]
)
def test_a_hostfile_that_says_nothing_clear_is_refused_when_the_recipe_is_loaded(
    tmp_path, recipe, text
):
    with pytest.raises(ConfigError, match=r"expected lines|is no line 'HOST slots=RANKS'"):
        recipe(f'distributed.hostfile="{hostfile(tmp_path, text)}"')


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["sft.offload_optimizer=true"],
            "offload_optimizer with zero_stage 0.* set zero_stage to 1, 2 or 3",
        ),
        (
            ["distributed.ranks=4", "ppo.sampling.tensor_parallel=3"],
            "tensor_parallel 3 does not divide the 4 ranks",
        ),
        (["ppo.sampling.tensor_parallel=2"], "tensor_parallel 2 does not divide the 1 ranks"),
        (
            ["distributed.ranks=8", "ppo.rollout_batch=4", "ppo.minibatches=1"],
            "rollout_batch 4 is less than 8 samplers .*raise it, or lower distributed.ranks",
        ),
        (
            ["distributed.ranks=2", 'distributed.hostfile="hosts"'],
            "ranks 2 and hostfile hosts exclude each other",
        ),
        (['distributed.hostfile="nowhere"'], "hostfile nowhere cannot be read"),
        (['distributed.master_addr="10.0.0.1"'], "master_addr 10.0.0.1 without a hostfile"),
        (
            ["ppo.zero_stage=3", 'ppo.critic="shared"'],
            "zero_stage 3 with critic 'shared'.* set zero_stage to 2",
        ),
        (["reward.zero_stage=4"], r"reward\.zero_stage"),
        (
            ["ppo.sampling={own_devices=1, sleep=true}"],
            "sleep with own_devices 1.* leave sleep out",
        ),
        (
            ["ppo.sampling={own_devices=3, tensor_parallel=2}"],
            "tensor_parallel 2 does not divide own_devices 3.* multiple",
        ),
        (
            ['ppo.sampling={own_devices=1, engine="transformers"}'],
            "own_devices 1: only vLLM offers them",
        ),
        (
            ['evaluate.sampling={engine="transformers", eager=false}'],
            "eager False, adapter_sync False and own_devices 0: only vLLM offers them",
        ),
        (
            ["ppo.sampling.adapter_sync=true"],
            r"sampling\.adapter_sync without lora: there is no adapter to send",
        ),
        (
            ["evaluate.sampling.adapter_sync=true"],
            r"evaluate\.sampling: adapter_sync: nothing learns while models are evaluated",
        ),
        (['ppo.sampling.eager="yes"'], r"ppo\.sampling\.eager"),
        (
            ["evaluate.sampling.own_devices=1"],
            r"evaluate\.sampling: own_devices 1: nothing learns while models are evaluated",
        ),
        (["ppo.sampling.own_devices=-1"], r"ppo\.sampling\.own_devices"),
        (
            ["ppo.sampling.own_devices=8", "ppo.rollout_batch=4", "ppo.minibatches=1"],
            "rollout_batch 4 is less than 8 samplers .*lower ppo.sampling.own_devices",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_both_numbers_and_the_remedy(recipe, settings, message):
    with pytest.raises(ConfigError, match=message):
        recipe(*settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("ranks=1", "launcher 'ray' with ranks 1.* ranks to 2 or more"),
        ('hostfile="hosts"', "launcher 'ray' and hostfile hosts exclude each other"),
        ('ranks=4, master_addr="a"', "master_addr a without a hostfile"),
        ("ranks=4, ray={ranks_per_host=3}", "ranks_per_host 3 does not divide ranks 4"),
        ("ranks=4, ray={cpus_per_rank=0}", "cpus_per_rank"),
    ],
)
def test_what_a_ray_cluster_cannot_place_is_refused(
    recipe, settings, message, tmp_path, monkeypatch
):
    hostfile(tmp_path, "a slots=2\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        recipe(f'distributed={{launcher="ray", {settings}}}')


def test_the_section_of_ray_is_for_its_launcher_alone(recipe):
    with pytest.raises(ConfigError, match=r"section ray with launcher 'pdsh'.* set launcher"):
        recipe("distributed={ranks=2, ray={cpus_per_rank=2}}")
    given = recipe('distributed={ranks=4, launcher="ray", ray={ranks_per_host=2}}')
    assert given.distributed.world_size == 4 and given.distributed.leaves_this_host


def test_ranks_started_by_hand_need_the_first_hosts_address(tmp_path, recipe):
    hosts = hostfile(tmp_path, "a slots=1\nb slots=1\n")
    with pytest.raises(ConfigError, match="'by_hand' needs master_addr"):
        recipe(f'distributed={{hostfile="{hosts}", launcher="by_hand"}}')
    given = f'distributed={{hostfile="{hosts}", launcher="by_hand", master_addr="a"}}'
    assert recipe(given, "ppo.sampling.tensor_parallel=2").distributed.world_size == 2


def test_own_devices_are_beside_the_ranks_of_one_host(tmp_path, recipe):
    own = ("ppo.sampling.own_devices=4", "ppo.sampling.tensor_parallel=4")
    # 4 divides neither of the 2 ranks
    assert recipe(*own, "distributed.ranks=2").ppo.sampling.own_devices == 4
    hosts = hostfile(tmp_path, "a slots=1\nb slots=1\n")
    with pytest.raises(
        ConfigError,
        match=r"own_devices 4 with hostfile .*distributed.ranks in place of the hostfile",
    ):
        recipe(*own, f'distributed.hostfile="{hosts}"')
    with pytest.raises(ConfigError, match=r"own_devices 4 with launcher 'ray'.* leave launcher"):
        recipe(*own, 'distributed={ranks=2, launcher="ray"}')
