"""The champion as a source of pairs: its models, where they are known and where they are gone."""

import shutil

import pytest
from synthetic import Story, Synthetic

from rlhf_core.config import Recipe
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from tasks.iterate.champion import champion_models, has_splits
from tasks.iterate.iteration import Iteration, IterationRound, LabelRequest
from tasks.iterate.labelling import labels_of
from tasks.records.run_record import Record


@pytest.fixture
def made(registrar, synthetic: Synthetic) -> Record:
    """The run that made the registry's champion, which policy 1 is."""
    record = synthetic.write(Story("made"))
    stage = record.stage("ppo")
    assert stage and stage.result
    policy = Artifact.of(registrar.models / "policy-1")
    result = stage.result.model_copy(update={"outputs": {"model": policy}})
    (stage.run_dir / "result.json").write_text(result.model_dump_json())
    record.save(synthetic.workspace)
    return record


def test_a_champion_whose_run_was_cleaned_up_is_taken_from_the_registry(synthetic, made):
    """Bug: the loop said that the run has no finished policy, or ended in a KeyError."""
    recipe = Recipe.model_validate(made.recipe)
    latest = synthetic.write(Story("latest", comparisons="later"))
    found = champion_models(synthetic.workspace, recipe, latest)
    assert found and found.made_by and found.made_by.name == "made" and has_splits(made)
    policy = found.models.inputs["policy"]
    assert "reward" in found.models.inputs and "prompts_train" in found.models.inputs

    validated = made.stage("validate")
    assert validated
    shutil.rmtree(validated.run_dir)
    assert not has_splits(made) and has_splits(latest)
    found = champion_models(synthetic.workspace, recipe, latest)
    assert found and found.models.inputs["policy"].digest == policy.digest


def test_a_champion_without_a_known_reward_model_is_refused_where_one_is_to_learn_on(
    registrar, synthetic
):
    """Bug: --continue-reward trained the reward model anew and said nothing."""
    latest = synthetic.write(Story("latest"))
    request = LabelRequest(
        by="m:f", sources=("onpolicy",), pick="random", pairs=5, continue_reward=True
    )
    iteration = Iteration(
        id="i1",
        name="tiny-iterate",
        recipe="tiny",
        registry="tiny",
        request=request,
        rounds_wanted=1,
        tracking_uri=synthetic.workspace.tracking_uri,
        rounds=[IterationRound(number=0, outcome="promoted", run="latest", record_id=latest.id)],
    )
    with pytest.raises(BadInput, match="champion of tiny-policy has no known reward model"):
        labels_of(synthetic.workspace, iteration, Recipe.model_validate(latest.recipe), latest)
    assert not iteration.round_folder(synthetic.workspace, 1).exists()
