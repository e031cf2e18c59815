"""The folder that `rlhf init` makes is valid and tested as it is, and replaces nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.scaffold.project import FILES, create
from rlhf_core import ROOT, __version__
from rlhf_core.config import load_recipe
from rlhf_core.errors import BadInput, ConfigError
from tasks.stages.contract import check_paths


def test_the_project_passes_its_own_tests(tmp_path):
    made = create(tmp_path / "my-team", "quickstart")
    assert [file for file in made if not file.is_file()] == [] and len(made) == len(FILES)
    # the plugins of this environment take longer than the tests
    quick = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "my-team",
        env=quick,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


def test_the_recipe_extends_the_named_one_and_its_functions_are_found(tmp_path, monkeypatch):
    create(tmp_path / "my-team", "quickstart")
    monkeypatch.chdir(tmp_path / "my-team")
    recipe, quickstart = load_recipe("recipe.toml"), load_recipe("quickstart")
    check_paths(recipe)  # of data, models and functions
    assert (recipe.name, recipe.registry.name) == ("my-team", "my-team")
    assert [one.function for one in recipe.ppo.reward.functions] == ["rewards:distinct"]
    assert recipe.evaluate.judge.function == "judge:prefer"
    assert recipe.data == quickstart.data and recipe.gates == quickstart.gates


def test_a_recipe_of_ones_own_is_extended_by_its_place_and_keeps_its_functions(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("base.toml").write_text(
        'extends = "quickstart"\nname = "base"\nregistry.name = "base"\n'
        'ppo.reward.functions = [{function = "ours:polite", weight = -0.5, columns = ["a"]}]\n'
        'evaluate.judge.function = "ours:judge"\n'
    )
    create(Path("my-team"), "base.toml")
    recipe = load_recipe("my-team/recipe.toml")
    first, second = recipe.ppo.reward.functions
    assert (first.function, first.weight, first.columns) == ("ours:polite", -0.5, ["a"])
    assert second.function == "rewards:distinct"
    assert recipe.evaluate.judge.function == "ours:judge"
    assert 'extends = "../base.toml"' in Path("my-team/recipe.toml").read_text()


def test_a_recipe_without_ppo_gets_no_reward_function(tmp_path):
    create(tmp_path / "my-team", "quickstart-dpo")
    recipe = load_recipe(str(tmp_path / "my-team" / "recipe.toml"))
    assert recipe.align == "dpo" and recipe.ppo.reward.functions == []


def test_the_deployment_and_the_requirements_name_what_is_installed(tmp_path):
    create(tmp_path / "my-team", "quickstart")
    text = (tmp_path / "my-team" / "prefect.yaml").read_text()
    (deployment,) = yaml.safe_load(text)["deployments"]
    module, _, function = deployment["entrypoint"].rpartition(".")
    assert module == "flows.pipeline"  # as `rlhf deploy` names it
    assert f"\ndef {function}(" in (ROOT / "flows" / "pipeline.py").read_text()
    assert deployment["name"] == "weekly-my-team"
    wanted = (tmp_path / "my-team" / "requirements.txt").read_text()
    assert f"rlhf-pipeline[cpu]=={__version__}" in wanted


def test_the_packages_of_a_project_are_for_the_environment_of_the_stages(tmp_path):
    create(tmp_path / "my-team", "quickstart")
    page = (tmp_path / "my-team" / "README.md").read_text()
    assert "`ENV/stage/bin/pip install pytest`" in page
    assert "`ENV/stage/bin/python -m pytest`" in page
    assert "pip install" not in page.partition("Packages and tests belong to")[0]
    fresh = "pip install --extra-index-url https://download.pytorch.org/whl/cpu -r requirements.txt"
    assert fresh in page
    assert fresh in (tmp_path / "my-team" / ".github" / "workflows" / "check.yaml").read_text()
    assert "index-url" not in (tmp_path / "my-team" / "requirements.txt").read_text()


@pytest.mark.parametrize("name", ["My-Team", "my team", "-team", "a" * 65, "mein_team"])
def test_a_name_that_no_recipe_may_have_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match="no name of a recipe; expected small letters"):
        create(tmp_path / name, "quickstart")
    assert not any(tmp_path.iterdir())


def test_the_name_of_a_recipe_that_comes_with_the_project_is_refused(tmp_path):
    with pytest.raises(BadInput, match="'quickstart' is the name of a recipe that comes with"):
        create(tmp_path / "quickstart", "quickstart")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "my-team").mkdir()
    (tmp_path / "my-team" / "notes.txt").write_text("mine")
    (tmp_path / "a-file").write_text("mine")
    with pytest.raises(BadInput, match="exists and holds files; expected a new or an empty folder"):
        create(tmp_path / "my-team", "quickstart")
    with pytest.raises(BadInput, match="exists and is no folder"):
        create(tmp_path / "a-file", "quickstart")
    assert [file.name for file in (tmp_path / "my-team").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert (tmp_path / "empty" / "recipe.toml") in create(tmp_path / "empty", "quickstart")


def test_a_recipe_that_is_not_there_and_a_place_that_is_none_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no recipe 'quickstrat'; expected one of"):
        create(tmp_path / "my-team", "quickstrat")
    with pytest.raises(BadInput, match=r"cannot be made \(No such file or directory\)"):
        create(tmp_path / "nowhere" / "my-team", "quickstart")
