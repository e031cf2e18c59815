"""The files that validation takes, and the paths that are refused."""

import pytest
from huggingface_hub import constants
from recipes import prepared_recipe

from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from tasks.stages import validate


def test_prepared_files_are_inputs_by_content_and_hub_names_are_not(have):
    spec = validate.spec(prepared_recipe(), have)
    assert set(spec.inputs) == {"model", "demonstrations"}
    assert spec.inputs["demonstrations"].path == have["files"].path / "data.jsonl"
    assert spec.config.data.demonstrations.path == "{prepared}/data.jsonl"


def test_runs_of_every_seed_share_the_splits_of_one_split_seed(have):
    first, second = (validate.spec(prepared_recipe(seed=seed), have) for seed in (1, 2))
    assert first.digest == second.digest and first.config.data.split_seed == 1
    data = prepared_recipe().data.model_dump() | {"split_seed": 2}
    other = validate.spec(prepared_recipe(data=data), have)
    assert other.digest != first.digest


@pytest.mark.parametrize("path", ["nowhere.jsonl", "data/nowhere.jsonl", "./nowhere", "plain-name"])
def test_a_path_that_is_nothing_is_refused_by_field_and_path(have, path):
    data = {"demonstrations": "org/name", "comparisons": path}
    with pytest.raises(BadInput, match=r"data\.comparisons is ") as refused:
        validate.spec(prepared_recipe(data=data), have)
    assert path in str(refused.value)


def test_what_options_need_of_the_data_is_asked_of_validate_and_of_no_other_recipe(have):
    plain = validate.spec(prepared_recipe(), have).config
    asking = validate.spec(prepared_recipe(reward={"margin_scale": 0.5}), have).config
    assert "needs" not in plain.model_dump(mode="json")
    assert asking.model_dump(mode="json")["needs"] == {"strength": True}


def test_a_folder_here_cannot_pose_as_a_hub_name(make_recipe, confined, tmp_path, monkeypatch):
    (tmp_path / "org" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    data = {"demonstrations": {"path": "org/data", "format": "hub"}, "comparisons": "c.jsonl"}
    with pytest.raises(BadInput, match="outside"):
        validate.spec(make_recipe(data=data), {"base": Artifact(path=tmp_path, digest="d")})


def test_the_spec_has_the_commit_of_a_hub_data_set(have, tmp_path, monkeypatch):
    refs = tmp_path / "datasets--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("c0ffee" + "0" * 34)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the hub does not answer
    hub = {"path": "org/name", "config": "easy", "revision": "main"}
    data = {"demonstrations": "{prepared}/data.jsonl", "comparisons": hub}
    found = validate.spec(prepared_recipe(data=data), have).model_dump(mode="json")
    sources = found["config"]["data"]
    assert sources["comparisons"]["revision"] == "c0ffee" + "0" * 34
    assert not {"config", "revision"} & set(sources["demonstrations"])


@pytest.mark.parametrize("key", ["config", "revision"])
def test_a_revision_or_configuration_of_a_file_here_is_refused(have, key):
    local = {"path": "{prepared}/data.jsonl", key: "x"}
    data = {"demonstrations": local, "comparisons": local}
    with pytest.raises(BadInput, match=rf"data\.demonstrations has the {key} 'x'"):
        validate.spec(prepared_recipe(data=data), have)


@pytest.mark.parametrize("path", ["{prepared}/../../other/rows.jsonl", "{prepared}/link"])
def test_prepared_files_do_not_lead_out_of_their_folder_anywhere(make_recipe, tmp_path, path):
    (tmp_path / "run" / "files").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rows.jsonl").touch()
    (tmp_path / "run" / "files" / "link").symlink_to(tmp_path / "other" / "rows.jsonl")
    have = {
        name: Artifact(path=tmp_path / "run" / "files", digest="d") for name in ("base", "files")
    }
    with pytest.raises(BadInput, match="leads out of"):
        validate.spec(make_recipe(data={"demonstrations": path, "comparisons": path}), have)


@pytest.mark.parametrize(
    ("field", "remedy"),
    [
        ("demonstrations_heldout", "or --set data.demonstrations_heldout=none to split by hash"),
        ("prompts", "or --set data.prompts=none to take those of the comparisons"),
        ("comparisons", "expected a path or a hub name."),
    ],
)
def test_files_that_another_base_model_does_not_prepare_are_refused_with_the_remedy(
    have, field, remedy
):
    data = {"demonstrations": "org/a", "comparisons": "org/b", field: "{prepared}/d.jsonl"}
    with pytest.raises(BadInput, match=rf"data\.{field} is .* prepares no files") as refused:
        validate.spec(prepared_recipe(data=data), {"base": have["base"]})
    assert remedy in str(refused.value)
