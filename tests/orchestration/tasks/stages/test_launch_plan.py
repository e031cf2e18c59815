"""`rlhf run RECIPE --print-launch`: the commands of every stage, and nothing started."""

import json
import shlex
import sys

from command_line import rlhf_exit_code
from recipes import prepared_recipe

from tasks.records.workspace import Workspace
from tasks.stages.launch_plan import UNKNOWN, launches

TRAINED = ("sft", "reward", "ppo")


def run(*words: str) -> int:
    return rlhf_exit_code("run", "quickstart", "--print-launch", *words)


def test_stages_that_train_get_the_launcher_and_the_others_python_alone(tmp_path):
    found = {
        one.stage: one
        for one in launches(prepared_recipe(distributed={"ranks": 2}), Workspace(tmp_path))
    }
    assert list(found) == ["prepare", "validate", "sft", "reward", "ppo", "evaluate"]
    for stage, one in found.items():
        module = "deepspeed.launcher.launch" if stage in TRAINED else "rlhf_core"
        assert one.command[0] == sys.executable and module in one.command
        assert one.command[-3:] == [stage, f"{one.run_dir}/spec.json", one.run_dir]
    assert found["prepare"].run_dir.startswith(str(tmp_path)) and found["sft"].run_dir == UNKNOWN
    assert not list(tmp_path.iterdir())


def test_one_rank_needs_no_launcher(tmp_path):
    assert all(
        "deepspeed" not in " ".join(one.command)
        for one in launches(prepared_recipe(), Workspace(tmp_path))
    )


def test_ranks_started_by_hand_have_a_command_for_each_other_host(tmp_path):
    (tmp_path / "hosts").write_text("a slots=1\nb slots=2\nc slots=1\n")
    hosts = {
        "hostfile": str(tmp_path / "hosts"),
        "launcher": "by_hand",
        "master_addr": "a",
        "master_port": 29501,
    }
    found = {
        one.stage: one
        for one in launches(prepared_recipe(distributed=hosts), Workspace(tmp_path / "home"))
    }
    ppo = found["ppo"]
    assert "--node_rank=0" in ppo.command and list(ppo.elsewhere) == ["b", "c"]
    assert {"--node_rank=2", "--master_addr=a", "--master_port=29501", "--no_ssh"} < set(
        ppo.elsewhere["c"]
    )
    assert found["prepare"].elsewhere == {}


def test_ranks_on_a_ray_cluster_are_placed_by_one_program(tmp_path):
    """It is started without the settings of this machine's cores, which the ranks do not use."""
    ray = {"ranks": 2, "launcher": "ray", "ray": {"ranks_per_host": 1}}
    found = {
        one.stage: one for one in launches(prepared_recipe(distributed=ray), Workspace(tmp_path))
    }
    for stage in TRAINED:
        words = found[stage].command
        assert words[:4] == [sys.executable, "-uP", "-m", "tasks.execution.ray_cluster"]
        assert json.loads(words[4]) == ray and words[5:] == [
            stage,
            f"{found[stage].run_dir}/spec.json",
            found[stage].run_dir,
        ]
        assert found[stage].elsewhere == {} and "OMP_NUM_THREADS" not in found[stage].environment
    assert "rlhf_core" in found["prepare"].command


def test_the_command_line_prints_what_a_shell_can_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "8")  # of another launcher
    assert run("--set", "distributed.ranks=2") == 0
    lines = [
        shlex.split(line)
        for line in capsys.readouterr().out.splitlines()
        if not line.startswith("#")
    ]
    assert len(lines) == 6 and all(sys.executable in line for line in lines)
    assert run("--json") == 0
    assert [one["stage"] for one in json.loads(capsys.readouterr().out)][2] == "sft"
    assert not (tmp_path / "runs").exists()


def test_a_recipe_that_cannot_run_prints_nothing(capsys):
    assert run("--set", "sft.offload_optimizer=true") == 2
    assert capsys.readouterr().out == ""
