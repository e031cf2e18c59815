"""ppo: the policy, from the SFT model, the reward model and rollout prompts."""

from rlhf_core.config import Recipe
from rlhf_core.rundir import StageResult, StageSpec
from tasks.specs import Artifacts, make_spec, without_gate

METRIC = "ppo/score_mean"


def spec(recipe: Recipe, have: Artifacts) -> StageSpec:
    """Inputs: policy (the SFT model it starts from and stays near), reward (its adapter too, for a shared trunk), prompts."""
    inputs = {"policy": have["sft"], "reward": have["reward"], "prompts_train": have["prompts_train"]}
    if recipe.ppo.reward_trunk == "reference":
        inputs["reward_adapter"] = have["reward_adapter"]
    return make_spec(recipe, "ppo", {"ppo": without_gate(recipe.ppo), "dtype": recipe.model.dtype}, inputs)


def gives(recipe: Recipe, have: Artifacts, result: StageResult) -> Artifacts:
    """policy: the trained model."""
    return {"policy": result.outputs["model"]}
