"""evaluate: the policy beside the SFT model and the present champion, on held-out prompts."""

from rlhf_core.config import Recipe
from rlhf_core.rundir import StageResult, StageSpec
from tasks.specs import Artifacts, make_spec, without_gate

METRIC = "eval/win_rate"
INPUTS = ("policy", "sft", "reward", "prompts_heldout", "demonstrations_heldout")


def spec(recipe: Recipe, have: Artifacts) -> StageSpec:
    """Inputs: INPUTS, and 'champion' when `have` holds one whose bytes are not the policy's."""
    inputs = {name: have[name] for name in INPUTS}
    if "champion" in have and have["champion"].digest != have["policy"].digest:
        inputs["champion"] = have["champion"]
    config = {"evaluate": without_gate(recipe.evaluate), "dtype": recipe.model.dtype}
    return make_spec(recipe, "evaluate", config, inputs)


def gives(recipe: Recipe, have: Artifacts, result: StageResult) -> Artifacts:
    """Nothing that a later stage reads."""
    return {}
