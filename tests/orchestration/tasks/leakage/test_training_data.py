"""The training data behind a model, from run directories and from MLflow."""

import json
import shutil

import pytest
from made_models import MadeModels, rows
from mlflow import MlflowClient

from rlhf_core.data.splits import TRAIN_PROMPTS, prompt_keys
from tasks.leakage.training_data import Origins
from tasks.records.workspace import Workspace


@pytest.fixture
def made(tmp_path):
    (tmp_path / "home").mkdir()
    return MadeModels(tmp_path / "home")


def unasked():
    raise AssertionError("MLflow was asked")


def no_versions():
    class Empty:
        def search_model_versions(self, _):
            return []

    return Empty()


def test_a_model_has_its_own_training_splits_and_those_of_its_parents(made):
    data, sft, reward = made.pipeline("a", "one", "two")
    origins = Origins(made.workspace, no_versions)
    found = origins.training_data(reward.digest)
    assert not found.unknown
    assert found.splits == {(name, item.digest) for name, item in data.items()}
    digest = data["comparisons_train"].digest
    assert origins.prompts(digest, reward.digest) == (prompt_keys(rows("one", "two")), [])
    assert len(origins.training_data(sft.digest).splits) == 1


def test_a_reward_model_has_the_training_splits_of_the_models_that_it_went_on_from(made):
    """Bug: reward.start was not followed, and its training prompts were measured on."""
    first, sft, start = made.pipeline("a", "one")
    splits = dict(first)
    for name in ("b", "c"):
        data = made.stage("validate", name, {}, {"new_comparisons_train": rows(f"prompt {name}")})
        inputs = {"model": sft, "start": start, **data}
        start = made.stage("reward", name, inputs, {"model": name})["model"]
        splits[name] = data["new_comparisons_train"]
    found = Origins(made.workspace, unasked).training_data(start.digest)
    assert not found.unknown
    assert {digest for _, digest in found.splits} == {item.digest for item in splits.values()}


def test_the_prompts_are_read_from_the_list_where_the_split_itself_is_gone(made):
    data, _, reward = made.pipeline("a", "one")
    split = data["comparisons_train"]
    folder = split.path.parent
    listed = {"comparisons_train": {"digest": split.digest, "prompts": ["k"]}}
    (folder / TRAIN_PROMPTS).write_text(json.dumps(listed))
    split.path.unlink()
    assert Origins(made.workspace, unasked).prompts(split.digest, reward.digest)[0] == {"k"}


def test_a_model_that_no_run_made_is_unknown_and_so_is_what_was_made_from_it(made):
    origins = Origins(made.workspace, no_versions)
    assert origins.training_data("f" * 64).unknown == ["no run here or in MLflow made ffffffffffff"]
    _, sft, reward = made.pipeline("a", "one")
    shutil.rmtree(made.workspace.runs / "sft-a")
    assert Origins(made.workspace, no_versions).training_data(reward.digest).unknown == [
        f"no run here or in MLflow made {sft.digest[:12]}"
    ]


def test_a_split_of_which_no_copy_is_left_has_no_prompts(made):
    data, _, reward = made.pipeline("a", "one")
    shutil.rmtree(made.workspace.runs / "validate-a")
    origins = Origins(made.workspace, no_versions)
    found = origins.prompts(data["comparisons_train"].digest, reward.digest)
    assert found == (None, ["has no copy left"])


def test_a_damaged_list_is_replaced_by_the_split_itself(made):
    data, _, reward = made.pipeline("a", "one")
    split = data["comparisons_train"]
    (split.path.parent / TRAIN_PROMPTS).write_text("{")
    found = Origins(made.workspace, unasked).prompts(split.digest, reward.digest)
    assert found == (prompt_keys(rows("one")), [])


def test_an_mlflow_that_fails_is_asked_once_and_is_the_reason_for_every_unknown_model(made):
    """Bug: asked again for one model, the second answer was that MLflow knows no run of it."""
    asked = []

    def failing():
        asked.append(1)
        raise ConnectionError("refused")

    origins = Origins(made.workspace, failing)
    for digest in ("f" * 64, "f" * 64, "e" * 64):
        assert origins.training_data(digest).unknown == [
            f"no run here made {digest[:12]}",
            "MLflow does not answer: ConnectionError: refused",
        ]
    assert len(asked) == 1 and isinstance(origins.mlflow_error, ConnectionError)


@pytest.mark.slow
def test_mlflow_knows_the_training_data_of_a_registered_model_whose_runs_are_elsewhere(
    make_recipe, home
):
    from flows.pipeline import run_pipeline

    assert run_pipeline(make_recipe()).promotion.promoted
    workspace = Workspace(home)
    runs = MlflowClient(workspace.tracking_uri)
    digest = runs.get_model_version_by_alias("tiny-policy", "champion").tags["digest"]
    here = Origins(workspace, unasked).training_data(digest)
    assert {name for name, _ in here.splits} == {
        "demonstrations_train",
        "comparisons_train",
        "prompts_train",
    }
    shutil.rmtree(workspace.runs)
    (split,) = {digest for name, digest in here.splits if name == "prompts_train"}
    origins = Origins(workspace, lambda: runs)
    assert origins.training_data(digest) == here
    assert origins.prompts(split, digest)[0] is None  # the stage program lists no prompts
    validation = runs.search_runs(["1"], "tags.stage = 'validate'")[0].info.run_id
    listed = {"prompts_train": {"digest": split, "prompts": ["k"]}}
    runs.log_dict(validation, listed, TRAIN_PROMPTS)
    assert Origins(workspace, lambda: runs).prompts(split, digest)[0] == {"k"}
