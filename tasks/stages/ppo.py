"""ppo: the policy, from the SFT model, the reward model and rollout prompts."""

from rlhf_core.config import Recipe, Rewards
from rlhf_core.judging.judge_endpoint import read_key
from rlhf_core.rundir import StageSpec
from tasks.execution.launcher import rank_config
from tasks.stages.spec import Artifacts, make_spec, source_of, without_gate


def spec(recipe: Recipe, have: Artifacts) -> StageSpec:
    """Inputs: policy (the SFT model it starts from and stays near), prompts, what rewards (a shared
    trunk's adapter too).
    """
    inputs = {"policy": have["sft"], "prompts_train": have["prompts_train"]} | sources(
        recipe.ppo.reward
    )
    if recipe.ppo.reward.model_weight:
        inputs["reward"] = have["reward"]
    if recipe.ppo.reward_trunk == "reference":
        inputs["reward_adapter"] = have["reward_adapter"]
    inputs |= _labeller(recipe)
    return make_spec(
        recipe,
        "ppo",
        {"ppo": without_gate(recipe.ppo), "dtype": recipe.model.dtype} | rank_config(recipe),
        inputs,
    )


def check(recipe: Recipe) -> None:
    """Look for reward functions, and for who labels the policy's replies, if anybody. Raises
    BadInput, naming the key.
    """
    sources(recipe.ppo.reward)
    _labeller(recipe)
    watch = recipe.ppo.reward_check
    if watch and watch.judge and watch.judge.api_key_env:
        read_key(watch.judge.api_key_env)


def _labeller(recipe: Recipe) -> Artifacts:
    """The source of the function that labels, as 'judge': edited, it is asked again."""
    watch = recipe.ppo.reward_check
    name = watch.judge.function if watch and watch.judge else None
    return {"judge": source_of("ppo.reward_check.judge.function", name)} if name else {}


def sources(rewards: Rewards) -> Artifacts:
    """The source of each reward function, 'function_1' and on. Raises BadInput, naming the key."""
    return {
        f"function_{number}": source_of("ppo.reward.functions", one.function)
        for number, one in enumerate(rewards.functions, start=1)
    }
