"""The spec of ppo: the policy, from the SFT model, what rewards, and prompts."""

from rlhf_core import stage_catalogue
from rlhf_core.config import PPO, Recipe, Rewards
from rlhf_core.config.stage_configs import PPOStageConfig
from rlhf_core.judging.judge_endpoint import read_key
from rlhf_core.named_functions import JUDGES, REWARDS
from rlhf_core.rundir import StageSpec
from tasks.stages.functions.source import source_of
from tasks.stages.spec import Artifacts, make_spec, taken, trained_language_model


def spec(recipe: Recipe, have: Artifacts) -> StageSpec[PPOStageConfig]:
    """Return the spec.

    Inputs: policy (the SFT model it starts from and stays near), prompts, what gives the rewards,
    and the adapter of a reward model that shares the reference's trunk.
    """
    inputs = taken(stage_catalogue.PPO, have)
    inputs |= sources(recipe.ppo.reward)
    if recipe.ppo.reward.model_weight:
        inputs["reward"] = have["reward"]
    if recipe.ppo.reward_trunk == "reference":
        inputs["reward_adapter"] = have["reward_adapter"]
    inputs |= _labeller(recipe)
    inputs |= _scorer(recipe)
    config = PPOStageConfig(
        ppo=_with_scorer(recipe),
        frozen_dtype=recipe.model.frozen_dtype,
        **trained_language_model(recipe),
    )
    return make_spec(recipe, "ppo", config, inputs)


def check(recipe: Recipe) -> None:
    """Check that reward functions, and the labeller of on-policy pairs, are there.

    Raises BadInput naming the key.
    """
    sources(recipe.ppo.reward)
    _labeller(recipe)
    _scorer(recipe)
    watch = recipe.ppo.reward_check
    if watch and watch.judge and watch.judge.api_key_env:
        read_key(watch.judge.api_key_env)


def _labeller(recipe: Recipe) -> Artifacts:
    """Return the source of the function that labels, as 'judge': once edited, it is asked again."""
    watch = recipe.ppo.reward_check
    name = watch.judge.function if watch and watch.judge else None
    return {"judge": source_of("ppo.reward_check.judge.function", name, JUDGES)} if name else {}


def _with_scorer(recipe: Recipe) -> PPO:
    """Return the ppo section with the scorer of its evaluation: its own, or evaluate's."""
    section = recipe.ppo
    if section.evaluation is None or section.evaluation.scorer:
        return section
    scorer = {"scorer": recipe.evaluate.independent_scorer}
    return section.model_copy(update={"evaluation": section.evaluation.model_copy(update=scorer)})


def _scorer(recipe: Recipe) -> Artifacts:
    """Return the source of the evaluation's scorer: once edited, PPO is run again."""
    evaluation = _with_scorer(recipe).evaluation
    name = evaluation.scorer if evaluation else None
    return {"independent_scorer": source_of("ppo.evaluation.scorer", name, REWARDS)} if name else {}


def sources(rewards: Rewards) -> Artifacts:
    """Return the source of each reward function, as 'function_1' and on.

    Raises BadInput naming the key.
    """
    return {
        f"function_{number}": source_of("ppo.reward.functions", one.function, REWARDS)
        for number, one in enumerate(rewards.functions, start=1)
    }
