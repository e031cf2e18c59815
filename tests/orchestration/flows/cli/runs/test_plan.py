"""`rlhf plan`: exit codes, what is printed, what is refused."""

import json
import re
from pathlib import Path

import pytest

from flows.cli.devices import CPU_OVERHEAD_VLLM, parse_memory
from rlhf_core.config import RECIPES, load_recipe
from rlhf_core.errors import ConfigError
from rlhf_core.plan.layout import stages_of, strategy_of
from rlhf_core.plan.source import find_models
from rlhf_core.plan.stages import plan_stage
from rlhf_core.plan.strategy import GIB, Hardware
from rlhf_core.rundir import StageResult
from tasks.records.run_record import Record, StageRecord
from tasks.records.workspace import Workspace

ROOT = Path(__file__).resolve().parents[5]


@pytest.fixture
def rlhf_plan(rlhf):
    """rlhf_plan(*words): run `rlhf plan` as the fixture `rlhf` does."""
    return lambda *words: rlhf("plan", *words)


def test_what_fits_ends_with_0_and_what_does_not_with_3(rlhf_plan):
    assert rlhf_plan("smollm2", "--model", "smollm2-135m", "--gpus", "1")[0] == 0
    code, out, err = rlhf_plan("smollm2", "--model", "7b", "--gpus", "8", "--gpu-memory", "80GiB")
    assert code == 3
    assert "sft: 133.6 of 80.0 GiB on each of 8 device(s), does not fit by 53.6 GiB" in out
    assert "ZeRO stage 2: --set sft.zero_stage=2" in out
    assert "actor 14.0, critic 14.0, reward 14.0, reference 14.0; 56.0 in all" in out
    assert err == ""


def test_the_printed_options_make_it_fit(rlhf_plan):
    words = ("smollm2", "--model", "llama-2-7b", "--gpus", "8", "--json")
    found = {stage["stage"]: stage for stage in json.loads(rlhf_plan(*words)[1])["stages"]}
    options = [change["option"] for change in found["sft"]["remedies"][0]["changes"]]
    again = json.loads(rlhf_plan(*words, *" ".join(options).split())[1])["stages"]
    assert (
        not found["sft"]["fits"]
        and next(stage for stage in again if stage["stage"] == "sft")["fits"]
    )


@pytest.mark.parametrize(
    "layout",
    [
        ["ppo.lora=true", "sft.lora=true", "reward.lora=true"],
        ["ppo.critic=shared"],
        ["reward.lora=true", "ppo.reward_trunk=reference"],
    ],
)
def test_what_makes_it_fit_is_no_combination_that_is_refused(rlhf_plan, layout):
    """ZeRO 3 takes neither adapters nor a shared critic: more devices are left, or nothing."""
    words = ("smollm2", "--model", "llama-2-13b", "--gpus", "8", "--gpu-memory", "40GiB", "--json")
    settings = [*layout, "distributed.ranks=8", "ppo.sampling.kv_cache_mib=8192"]
    found = json.loads(rlhf_plan(*words, *(f"--set={setting}" for setting in settings))[1])[
        "stages"
    ]
    remedies = [remedy["changes"] for stage in found for remedy in stage["remedies"]]
    assert any(not stage["fits"] for stage in found) and remedies
    for changes in remedies:
        options = [
            found[1]
            for change in changes
            if (found := re.fullmatch("--set (.+)", change["option"] or ""))
        ]
        load_recipe("smollm2", [*settings, *options])


def test_a_sampler_of_its_own_is_planned_apart_from_the_training_devices(rlhf_plan):
    words = ("smollm2", "--model", "llama-2-7b", "--gpus", "8", "--gpu-memory", "200GB", "--json")
    own = ("--set", "ppo.sampling.own_devices=2", "--set", "ppo.sampling.tensor_parallel=2")
    shared, apart = (
        {stage["stage"]: stage for stage in json.loads(rlhf_plan(*words, *more)[1])["stages"]}
        for more in ((), own)
    )
    held = sum(
        part["bytes"]
        for part in shared["ppo"]["parts"]
        if part["model"] == "vLLM" and part["kind"] == "weights"
    )
    weights = [
        part["bytes"] for part in apart["ppo.sampling"]["parts"] if part["kind"] == "weights"
    ]
    assert weights == [held / 2]
    assert all(part["model"] == "vLLM" for part in apart["ppo.sampling"]["parts"])
    assert (
        "vLLM" not in {part["model"] for part in apart["ppo"]["parts"]}
        and "ppo.sampling" not in shared
    )
    assert apart["ppo"]["peak_bytes"] < shared["ppo"]["peak_bytes"] - held


def test_what_makes_a_sampler_of_its_own_fit_are_its_own_settings(rlhf_plan):
    words = ("smollm2", "--model", "llama-2-7b", "--gpus", "8", "--gpu-memory", "24GB", "--json")
    words += ("--set", "ppo.sampling.own_devices=2", "--set", "model.dtype=float32")
    found, again = (
        next(
            stage
            for stage in json.loads(rlhf_plan(*words, *more)[1])["stages"]
            if stage["stage"] == "ppo.sampling"
        )
        for more in ((), ("--set", "model.dtype=bfloat16"))
    )
    assert not found["fits"] and again["fits"]
    assert [change["option"] for change in found["remedies"][0]["changes"]] == [
        "--set model.dtype=bfloat16"
    ]


def test_json_adds_up(rlhf_plan):
    document = json.loads(
        rlhf_plan("quickstart", "--gpus", "1", "--gpu-memory", "24GB", "--json")[1]
    )
    assert document["fits"] and document["devices"] == 1
    for stage in document["stages"]:
        held = [
            p["bytes"]
            for p in stage["parts"]
            if p["phases"] is None or stage["peak_phase"] in p["phases"]
        ]
        assert sum(held) + stage["overhead_bytes"] == pytest.approx(
            stage["peak_bytes"], abs=len(held)
        )
        assert stage["peak_bytes"] + stage["spare_bytes"] == pytest.approx(24 * 10**9, abs=1)
        assert stage["peak_bytes"] == max(stage["phases"].values())


def test_without_gpus_this_machine_is_planned_for(rlhf_plan, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    document = json.loads(rlhf_plan("smollm2", "--model", "smollm2-135m", "--json")[1])
    assert (document["kind"], document["devices"]) == ("cpu", 1)


def test_the_picture_is_written(rlhf_plan, tmp_path):
    rlhf_plan("smollm2", "--model", "70b", "--gpus", "8", "--picture", str(tmp_path / "plan.svg"))
    assert (tmp_path / "plan.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "0"), "--gpus 0: expected 1 or more"),
        (("--gpus", "8", "--gpu-memory", "80"), "expected a positive number with its unit"),
        (("--gpu-memory", "much"), "'much' is not a size"),
        (("--gpus", "1", "--model", "8b"), "no model preset '8b'"),
        (("--gpus", "1", "--model-config", "nowhere.json"), "nowhere.json cannot be read"),
        (("--gpus", "1", "--picture", "plan.pdf"), ".svg or .png"),
        (("--set", "ppo.zero_stage=4"), "ppo.zero_stage"),
    ],
)
def test_a_bad_value_ends_with_2_and_its_remedy(rlhf_plan, words, said):
    code, out, err = rlhf_plan("quickstart", *words)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("text", "size"),
    [("80GiB", 80 * 2**30), ("80 GB", 80 * 10**9), ("512mib", 512 * 2**20), ("1.5TiB", 3 * 2**39)],
)
def test_a_size_has_its_unit(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "0GiB", "80 G", "1e3GiB", "80GiBs"])
def test_other_sizes_are_refused(text):
    with pytest.raises(ConfigError, match="expected a positive number with its unit"):
        parse_memory(text)


def documented(page: str) -> list[tuple[str, list[str]]]:
    """Commands in a page of infra/docs and the lines printed below them."""
    text = (ROOT / "infra" / "docs" / page).read_text()
    blocks = re.findall(r"```console\n\$ rlhf plan ([^\n]*)\n(.*?)```", text, flags=re.DOTALL)
    return [(command, lines_of(printed)) for command, printed in blocks]


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_the_examples_of_the_documentation_are_what_the_command_prints(rlhf_plan):
    examples = documented("results/memory.md")
    assert [words.split()[2] for words, _ in examples] == ["7b", "70b"]
    for words, printed in examples:
        assert printed == lines_of(rlhf_plan(*words.split())[1])


def test_every_gpu_preset_fits_the_machine_that_it_names_and_the_documentation_shows_it(rlhf_plan):
    named = [
        found[1]
        for path in RECIPES.glob("*.toml")
        if (found := re.search(r"`rlhf plan ([^`]+)`", path.read_text()))
    ]
    shown = documented("reference/presets.md")
    assert sorted(named) == sorted(words for words, _ in shown) and len(named) == 3
    for words, printed in shown:
        code, out, _ = rlhf_plan(*words.split())
        assert code == 0 and "does not fit" not in out
        assert printed == lines_of(out)


def test_every_recipe_loads_without_a_network_and_names_itself():
    recipes = {path.stem: load_recipe(path.stem) for path in RECIPES.glob("*.toml")}
    assert {recipe.name for recipe in recipes.values()} == recipes.keys() and len(recipes) == 7
    assert all(recipe.description for recipe in recipes.values())


@pytest.mark.parametrize("name", ["quickstart", "quickstart-dpo", "smollm2"])
def test_every_cpu_preset_fits_16_gib(name):
    recipe = load_recipe(name)
    models = find_models(recipe, name="smollm2-135m" if name == "smollm2" else None)
    for stage in stages_of(recipe):
        found = plan_stage(
            recipe,
            stage,
            models,
            strategy_of(recipe, stage, 1),
            Hardware("cpu", 16 * GIB, CPU_OVERHEAD_VLLM),
        )
        assert found.fits, stage


def test_time_is_foreseen_where_this_machine_has_done_the_same_work(rlhf_plan, home, monkeypatch):
    monkeypatch.delenv("RLHF_PRICES", raising=False)
    assert "this machine has finished no stage with the same work" in rlhf_plan("quickstart")[1]
    assert "other devices or models" in rlhf_plan("smollm2", "--model", "smollm2-135m")[1]
    workspace = Workspace(home)
    record = Record.new(workspace, load_recipe("quickstart", []), "quickstart-a-1")
    run_dir = home / "runs" / "sft-1"
    run_dir.mkdir(parents=True)
    result = StageResult(stage="sft", digest="d", seconds=1800.0)
    (run_dir / "result.json").write_text(result.model_dump_json())
    record.stages.append(StageRecord(stage="sft", run_dir=run_dir, status="FINISHED", started=1))
    record.save(workspace)
    out = rlhf_plan("quickstart")[1]
    rows = [line.split() for line in out.splitlines()]
    assert ["sft", "0.50", "0.00", "0.00", "quickstart-a-1"] in rows
    assert "Without prepare, validate, reward, ppo, evaluate, which this machine has not" in out
    found = json.loads(rlhf_plan("quickstart", "--json")[1])["forecast"]
    assert {one["stage"]: one["runs"] for one in found}["sft"] == 1
