"""The identity of a stage, and the folders that a recipe may read."""

import pytest
from recipes import prepared_recipe

from rlhf_core.errors import BadInput
from tasks.stages import evaluate, ppo, prepare, reward, sft, validate
from tasks.stages.spec import local, source_of


def test_a_threshold_or_a_registry_name_is_in_no_spec(have):
    strict = prepared_recipe(
        sft={"gate": {"min_improvement": 0.5}},
        reward={"gate": {"min_accuracy": 0.9}},
        ppo={"gate": {"max_kl_per_response": 1.0}},
        evaluate={"gate": {"min_prompts": 9}},
        registry={"name": "other", "min_win_rate_vs_champion": 0.9},
    )
    for stage in (prepare, validate, sft, reward, ppo, evaluate):
        assert stage.spec(strict, have).digest == stage.spec(prepared_recipe(), have).digest


def test_a_policy_learning_rate_is_in_the_ppo_spec_only(have):
    other = prepared_recipe(ppo={"policy_lr": 1e-3})
    changed = [
        s
        for s in (prepare, validate, sft, reward, ppo)
        if s.spec(other, have).digest != s.spec(prepared_recipe(), have).digest
    ]
    assert changed == [ppo]


def test_on_a_laptop_files_may_lie_anywhere(tmp_path, monkeypatch):
    monkeypatch.delenv("RLHF_ALLOWED_ROOTS", raising=False)
    (tmp_path / "a.jsonl").touch()
    assert local("data.comparisons", str(tmp_path / "a.jsonl")) == tmp_path / "a.jsonl"


def test_files_below_an_allowed_folder_are_read(confined, tmp_path):
    (tmp_path / "more").mkdir()
    for path in (confined / "a.jsonl", tmp_path / "more" / "b.jsonl"):
        path.touch()
        assert local("data.comparisons", str(path)) == path


@pytest.mark.parametrize("how", ["absolute", "dots", "link", "prefix", "relative"])
def test_files_elsewhere_are_refused_however_they_are_named(confined, tmp_path, monkeypatch, how):
    outside = tmp_path / "outside.jsonl"
    outside.touch()
    (tmp_path / "allowed-too").mkdir()
    (tmp_path / "allowed-too" / "a.jsonl").touch()
    (confined / "link").symlink_to(outside)
    monkeypatch.chdir(tmp_path)
    text = {
        "absolute": str(outside),
        "dots": str(confined / ".." / "outside.jsonl"),
        "link": str(confined / "link"),
        "prefix": str(tmp_path / "allowed-too" / "a.jsonl"),
        "relative": "outside.jsonl",
    }[how]
    with pytest.raises(
        BadInput, match=r"data\.comparisons leads to .* outside .*RLHF_ALLOWED_ROOTS"
    ):
        local("data.comparisons", text)


def test_a_function_of_the_system_is_no_scorer_there(confined):
    with pytest.raises(BadInput, match="outside"):
        source_of("evaluate.independent", "shutil:rmtree")
    assert (
        source_of("evaluate.independent", "rlhf_core.quickstart.utility:score").path.name
        == "utility.py"
    )
