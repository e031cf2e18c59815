"""The source of a function that a recipe names is part of the run, and is one that may be read."""

import pytest
from offering_package import install
from recipes import tiny_recipe

from rlhf_core.errors import BadInput
from rlhf_core.named_functions import READERS, REWARDS
from tasks.stages import contract, ppo
from tasks.stages.functions.source import source_of
from tasks.stages.validate import reader_of

FIELD = "evaluate.independent_scorer"
SOURCE = "def score(prompts, replies):\n    return [1.0] * len(replies)\n"
READER = "def rows(path):\n    yield {'prompt': path.name}\n"


def test_a_function_of_the_system_is_no_scorer_where_folders_are_confined(monkeypatch, tmp_path):
    monkeypatch.setenv("RLHF_ALLOWED_ROOTS", str(tmp_path))
    for name in ("shutil:rmtree", "pytest:main"):
        with pytest.raises(BadInput, match="outside"):
            source_of(FIELD, name, REWARDS)
    own = source_of(FIELD, "rlhf_core.quickstart.utility:score", REWARDS)
    assert own.path.name == "utility.py"


def test_a_function_that_an_installed_package_offers_may_be_used_there(monkeypatch, tmp_path):
    file = install(
        tmp_path, monkeypatch, "team-rules", {REWARDS: {"polite": "team_rules:score"}}, SOURCE
    )
    monkeypatch.setenv("RLHF_ALLOWED_ROOTS", str(tmp_path / "elsewhere"))
    assert source_of(FIELD, "polite", REWARDS).path == file
    with pytest.raises(BadInput, match="outside"):
        source_of(FIELD, "team_rules:score", REWARDS)


def test_the_source_of_an_offered_function_is_part_of_ppo(monkeypatch, tmp_path):
    file = install(
        tmp_path, monkeypatch, "team-rules", {REWARDS: {"polite": "team_rules:score"}}, SOURCE
    )
    rewards = tiny_recipe(ppo={"reward": {"functions": ["polite"]}}).ppo.reward
    before = ppo.sources(rewards)["function_1"]
    file.write_text(SOURCE.replace("1.0", "2.0"))
    assert ppo.sources(rewards)["function_1"].digest != before.digest


def test_an_unknown_name_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d", "c"):
        (tmp_path / name).touch()
    recipe = tiny_recipe(ppo={"reward": {"functions": ["polite"]}})
    with pytest.raises(BadInput, match=r"ppo\.reward\.functions is 'polite': no installed package"):
        contract.check_paths(recipe)


def test_the_source_of_a_reader_is_that_of_its_function_and_it_reads_local_files_alone(
    monkeypatch, tmp_path
):
    file = install(tmp_path, monkeypatch, "team-rows", {READERS: {"odd": "team_rows:rows"}}, READER)
    (tmp_path / "pairs.odd").touch()
    monkeypatch.chdir(tmp_path)
    read = {"path": "pairs.odd", "reader": "odd"}
    data = tiny_recipe(data={"demonstrations": read, "comparisons": "c.jsonl"}).data
    assert reader_of("data.demonstrations", data.demonstrations).path == file
    hub = data.demonstrations.model_copy(update={"path": "org/name"})
    with pytest.raises(
        BadInput, match="'org/name', which is no file or folder here, and its reader"
    ):
        reader_of("data.demonstrations", hub)
