"""dpo: the policy, from the SFT model and comparisons, without reward model and rollouts."""

from rlhf_core.config import Recipe
from rlhf_core.rundir import StageResult, StageSpec
from tasks.execution.launcher import rank_config
from tasks.stages.spec import Artifacts, make_spec, without_gate

METRIC = "dpo/accuracy"


def spec(recipe: Recipe, have: Artifacts) -> StageSpec:
    """Inputs: policy (the SFT model it starts from and stays near), comparisons_train,
    comparisons_heldout.
    """
    inputs = {"policy": have["sft"]} | {
        name: have[name] for name in ("comparisons_train", "comparisons_heldout")
    }
    return make_spec(
        recipe,
        "dpo",
        {"dpo": without_gate(recipe.dpo), "dtype": recipe.model.dtype} | rank_config(recipe),
        inputs,
    )


def gives(recipe: Recipe, have: Artifacts, result: StageResult) -> Artifacts:
    """policy: the trained model."""
    return {"policy": result.outputs["model"]}
