"""The reward models of reward.start and reward.before: found, and checked before training."""

import json
import shutil
from pathlib import Path

import pytest
from recipes import tiny_recipe

from rlhf_core.errors import BadInput, RLHFError
from rlhf_core.rundir import Artifact
from tasks.promotion.rival import models_brought
from tasks.records.workspace import Workspace
from tasks.stages.reward_start import OF_CHAMPION, require_same_base, require_start, start_inputs

NEW = {"demonstrations": "d", "comparisons": "c", "new_comparisons": "n"}


def recipe(**reward: object):
    return tiny_recipe(data=NEW, reward=reward)


@pytest.fixture
def model(registrar, tmp_path) -> Path:
    """A copy of a real reward model, to change."""
    return shutil.copytree(registrar.models / "reward-2", tmp_path / "reward")


def changed(model: Path, **values: object) -> Path:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | values), encoding="utf-8")
    return model


def test_a_recipe_that_names_no_champion_asks_no_registry(tmp_path):
    assert models_brought(recipe(start="a", before="b"), Workspace(tmp_path)) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["start", "before"])
def test_the_champions_reward_model_comes_from_the_registry(registrar, key):
    workspace, digest = registrar.registry.workspace, registrar.digests["reward", "1"]
    named = recipe(**{key: "champion"})
    with pytest.raises(
        BadInput, match=rf"reward\.{key} is 'champion', but the champion of tiny-po"
    ):
        models_brought(named, workspace)  # its parents are not recorded
    registrar.registry.client.set_model_version_tag(
        "tiny-policy", "1", "parents", json.dumps({"reward": digest})
    )
    have = models_brought(named, workspace)
    assert have[OF_CHAMPION].digest == digest
    assert start_inputs(named, have)[key].digest == digest
    if key == "start":
        two = recipe(start="champion", ensemble=2)
        with pytest.raises(BadInput, match=r"has 1 member, but reward\.ensemble is 2; .* = 1"):
            models_brought(two, workspace)


def test_without_a_champion_the_run_is_refused_before_anything_trains(home):
    with pytest.raises(BadInput) as refused:
        models_brought(recipe(start="champion"), Workspace(home))
    assert str(refused.value) == (
        "reward.start is 'champion', but tiny-policy has no champion; expected one with its reward"
        " model. Have a first run promoted (rlhf history tiny), or leave reward.start out."
    )


def test_a_registry_that_does_not_answer_is_said(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RLHFError, match=r"does not answer .*champion that reward\.start names"):
        models_brought(recipe(start="champion"), Workspace(home))


def test_a_model_that_is_both_is_the_start_alone_and_another_is_measured(registrar, model):
    same, other = str(registrar.models / "reward-2"), str(registrar.models / "reward-1")
    unseen = {"new_comparisons_heldout_unseen": Artifact.of(model / "config.json")}
    assert start_inputs(recipe(start=same, before=str(model)), unseen).keys() == {"start"}
    found = start_inputs(recipe(start=same, before=other), unseen)
    assert found.keys() == {"start", "before", *unseen}
    assert start_inputs(recipe(before=other), {}).keys() == {"before"}
    assert start_inputs(recipe(), unseen) == {}


@pytest.mark.parametrize("key", ["start", "before"])
def test_what_is_no_reward_model_or_another_model_is_refused(registrar, model, key, tmp_path):
    named, base = recipe(**{key: str(model)}), registrar.models / "policy-1"
    require_start(named, {})
    require_same_base(named, base, {})
    changed(model, hidden_size=32, num_hidden_layers=9)
    with pytest.raises(
        BadInput, match=r"of another shape .* hidden_size 32, num_hidden_layers 9, "
    ):
        require_same_base(named, base, {})
    changed(model, id2label={"0": "a", "1": "b"})
    with pytest.raises(BadInput, match="is no reward model: its config"):
        require_start(named, {})
    with pytest.raises(BadInput, match=rf"reward\.{key} is 'absent': no such folder"):
        require_start(recipe(**{key: "absent"}), {})


def test_another_tokenizer_is_refused(registrar, model):
    changed_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    (model / "chat_template.jinja").write_text(changed_template, encoding="utf-8")
    with pytest.raises(BadInput, match=r"reward\.before is .* another tokenizer or chat template"):
        require_same_base(recipe(before=str(model)), registrar.models / "policy-1", {})


def test_the_plan_of_a_launch_refuses_too_without_a_champion(rlhf, recipe_file, home):
    code, out, err = rlhf("run", recipe_file, "--set", "reward.start=champion", "--print-launch")
    assert code == 2 and not out and "tiny-policy has no champion" in " ".join(err.split())
    assert not (home / "runs").exists()
