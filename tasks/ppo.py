"""ppo: the policy, from the SFT model, the reward model and rollout prompts."""

from rlhf_core.config import Recipe
from rlhf_core.judge_endpoint import read_key
from rlhf_core.rundir import StageResult, StageSpec
from tasks.specs import Artifacts, make_spec, source_of, without_gate

METRIC = "ppo/score_mean"


def spec(recipe: Recipe, have: Artifacts) -> StageSpec:
    """Inputs: policy (the SFT model it starts from and stays near), reward (its adapter too, for a shared trunk), prompts."""
    inputs = {"policy": have["sft"], "reward": have["reward"], "prompts_train": have["prompts_train"]}
    if recipe.ppo.reward_trunk == "reference":
        inputs["reward_adapter"] = have["reward_adapter"]
    inputs |= _labeller(recipe)
    return make_spec(recipe, "ppo", {"ppo": without_gate(recipe.ppo), "dtype": recipe.model.dtype}, inputs)


def check(recipe: Recipe) -> None:
    """Look for who labels the policy's replies, if anybody. Raises BadInput, naming the key."""
    _labeller(recipe)
    watch = recipe.ppo.reward_check
    if watch and watch.judge and watch.judge.api_key_env:
        read_key(watch.judge.api_key_env)


def _labeller(recipe: Recipe) -> Artifacts:
    """The source of the function that labels, as 'judge': edited, it is asked again."""
    watch = recipe.ppo.reward_check
    name = watch.judge.function if watch and watch.judge else None
    return {"judge": source_of("ppo.reward_check.judge.function", name)} if name else {}


def gives(recipe: Recipe, have: Artifacts, result: StageResult) -> Artifacts:
    """policy: the trained model."""
    return {"policy": result.outputs["model"]}
