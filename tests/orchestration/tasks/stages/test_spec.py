"""The identity of a stage, and the folders that a recipe may read."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from recipes import prepared_recipe

from rlhf_core.batching.batch import subset
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from tasks.records.workspace import first_template_date
from tasks.stages import evaluate, ppo, prepare, reward, sft, validate
from tasks.stages.spec import local, model_folder


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


def test_runs_of_every_seed_draw_the_same_held_out_rows(have):
    """Two runs pair on the same items, where a limit leaves some of them out."""
    for stage in (sft, reward, evaluate):
        first, second = (stage.spec(prepared_recipe(seed=seed), have) for seed in (1, 2))
        assert first.seed != second.seed
        drawn = [
            subset(list(range(900)), 64, seed=s.config.heldout_seed(s.seed))
            for s in (first, second)
        ]
        assert drawn[0] == drawn[1]
        assert "split_seed" not in first.config.model_dump(mode="json")
    assert ppo.spec(prepared_recipe(seed=2), have).config.split_seed is None
    assert validate.spec(prepared_recipe(seed=2), have).config.split_seed is None


def test_the_date_of_a_template_is_in_the_spec_where_one_asks_for_it(have, tmp_path, monkeypatch):
    """It is the day of the workspace's first such run: a later day finds the same stages."""
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    recipe = prepared_recipe()
    plain = sft.spec(recipe, have)
    assert "template_date" not in plain.config.model_dump(mode="json")
    assert not (tmp_path / "template_date").exists()
    base = tmp_path / "dated"
    base.mkdir()
    (base / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}")
    dated = have | {"base": Artifact.of(base)}
    today = sft.spec(recipe, dated)
    assert today.config.template_date == datetime.now(UTC).date().isoformat()
    (tmp_path / "template_date").write_text("2020-01-02")  # as if that day had been the first
    first, again = sft.spec(recipe, dated), sft.spec(recipe, dated)
    assert first.config.template_date == "2020-01-02" and first.digest == again.digest
    pinned = prepared_recipe(model={"base": "quickstart", "template_date": "2026-01-31"})
    assert sft.spec(pinned, dated).config.template_date == "2026-01-31"
    assert sft.spec(pinned, have).digest == plain.digest


def test_the_date_of_a_template_is_today_where_the_workspace_cannot_keep_it(tmp_path):
    today = datetime.now(UTC).date().isoformat()
    assert first_template_date(tmp_path / "absent") == today
    assert first_template_date(tmp_path) == first_template_date(tmp_path) == today
    assert [file.name for file in tmp_path.iterdir()] == ["template_date"]


def test_on_a_laptop_files_may_lie_anywhere(tmp_path, monkeypatch):
    monkeypatch.delenv("RLHF_ALLOWED_ROOTS", raising=False)
    (tmp_path / "a.jsonl").touch()
    assert local("data.comparisons", str(tmp_path / "a.jsonl")) == tmp_path / "a.jsonl"


@pytest.fixture
def other_user():
    """Become user 12345, who owns no file here, until the test ends."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    yield lambda: os.seteuid(12345)
    os.seteuid(0)


@pytest.fixture
def shared(tmp_path):
    """Open the folders above `tmp_path` to every user until the test ends."""
    modes = {folder: folder.stat().st_mode for folder in (tmp_path, *tmp_path.parents)}
    closed = {folder: mode for folder, mode in modes.items() if not mode & 0o001}
    for folder, mode in closed.items():
        folder.chmod(mode | 0o055 if folder == tmp_path else mode | 0o011)
    yield tmp_path
    for folder, mode in closed.items():
        folder.chmod(mode)


@pytest.mark.parametrize("what", ["file", "folder", "file in a folder", "file in a closed folder"])
def test_what_may_not_be_read_is_refused_with_its_key(what, shared, other_user):
    folder = shared / "d"
    folder.mkdir()
    file = folder / "secret.jsonl"
    file.touch()
    (folder if what.endswith("folder") and what != "file in a folder" else file).chmod(0o600)
    asked = folder if what in ("folder", "file in a folder") else file
    other_user()
    with pytest.raises(BadInput, match=r"data\.comparisons leads to .*, which user 12345 may not"):
        local("data.comparisons", str(asked))


def test_a_model_folder_that_may_not_be_read_is_refused_with_its_key(shared, other_user):
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (shared / name).write_text("{}")
    (shared / "model.safetensors").chmod(0o600)
    assert model_folder("model.sft", str(shared)) == shared
    other_user()
    with pytest.raises(BadInput, match=r"model\.sft leads to .*model\.safetensors, which user"):
        model_folder("model.sft", str(shared))


def test_a_pipe_is_refused_because_its_bytes_can_be_read_once(tmp_path):
    os.mkfifo(tmp_path / "f")
    with pytest.raises(BadInput, match=r"data\.comparisons leads to .*f, which is a pipe"):
        local("data.comparisons", str(tmp_path / "f"))


@pytest.mark.parametrize(
    ("text", "similar"),
    [
        ("d/pairs", r" \(d/pairs\.jsonl is there\)"),
        ("d/paris.jsonl", r" \(d/pairs\.jsonl is there\)"),
        ("d/other", ""),
        ("pears", r" \(pears\.csv is there\)"),
    ],
)
def test_a_path_whose_folder_is_here_is_not_asked_of_the_hub(text, similar, tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "pairs.jsonl").touch()
    (tmp_path / "pears.csv").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=f"no file or folder of that name in {tmp_path}{similar},"):
        local("data.comparisons", text)
    assert local("data.comparisons", "org/name") is None


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


def test_a_pattern_gives_its_files_and_one_that_matches_none_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl.gz").touch()
    monkeypatch.chdir(tmp_path)
    assert local("data.comparisons", "*.jsonl.gz") == Path("*.jsonl.gz")
    with pytest.raises(BadInput, match=rf"comparisons is '\*\.csv': no file in {tmp_path} matches"):
        local("data.comparisons", "*.csv")


def test_each_file_of_a_pattern_is_below_an_allowed_folder(confined, tmp_path):
    (confined / "a.jsonl").touch()
    assert local("data.comparisons", str(confined / "*.jsonl"))
    (tmp_path / "outside.jsonl").touch()
    (confined / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    with pytest.raises(BadInput, match=r"outside\.jsonl, outside .*RLHF_ALLOWED_ROOTS"):
        local("data.comparisons", str(confined / "*.jsonl"))


def test_a_pattern_in_a_folder_that_may_not_be_read_names_the_folder(shared, other_user):
    folder = shared / "d"
    folder.mkdir(mode=0o700)
    (folder / "a.jsonl").touch()
    other_user()
    with pytest.raises(BadInput, match=r"/d/.*, which user 12345 may not read"):
        local("data.comparisons", str(folder / "*.jsonl"))
