"""The spec of reward: train a reward model, or measure a given one."""

from rlhf_core import stage_catalogue
from rlhf_core.config import Recipe
from rlhf_core.config.preference.reward import FROM_SFT
from rlhf_core.config.stage_configs import RewardStageConfig
from rlhf_core.errors import BadInput
from rlhf_core.rundir import ENSEMBLE, Artifact, StageSpec
from tasks.stages.labelled import learnt_from
from tasks.stages.reward_start import require_start, start_inputs
from tasks.stages.spec import Artifacts, make_spec, model_folder, taken, trained


def spec(recipe: Recipe, have: Artifacts) -> StageSpec[RewardStageConfig]:
    """Return the spec; a given reward model is the input 'given', one to go on from 'start'.

    One whose drift is measured is 'before'.
    """
    learn_from = recipe.reward.feedback.learn_from
    inputs = learnt_from(taken(stage_catalogue.REWARD, have), learn_from)
    if brought := given(recipe):
        inputs["given"] = brought["reward"]
    inputs |= start_inputs(recipe, have)  # which are known by their content, not by their place
    section = recipe.reward.model_copy(update={"start": FROM_SFT, "before": None})
    train = recipe.model.reward is None
    config = RewardStageConfig(reward=section, train=train, **trained(recipe))
    return make_spec(recipe, "reward", config, inputs)


def check(recipe: Recipe) -> None:
    """Check the reward models that the recipe names. Raises BadInput naming the key."""
    require_start(recipe, {})
    if recipe.model.reward is None:
        return
    folder = model_folder("model.reward", recipe.model.reward)
    penalty = recipe.ppo.uncertainty_penalty
    if penalty and not (folder / ENSEMBLE).exists():
        raise BadInput(
            f"ppo.uncertainty_penalty is {penalty:g}, but model.reward is {recipe.model.reward!r},"
            f" one reward model without {ENSEMBLE}; expected an ensemble (made with reward.ensemble"
            " = 2 or more), or a penalty of 0."
        )


def given(recipe: Recipe) -> Artifacts:
    """Return the reward model that the recipe names, if any."""
    named = recipe.model.reward
    return {"reward": Artifact.of(model_folder("model.reward", named))} if named else {}
