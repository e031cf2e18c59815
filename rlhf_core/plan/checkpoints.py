"""The checkpoints of a stage: bytes on disk, and of the copy that is written beside the steps."""

from rlhf_core.config import LoRA, Recipe, Training
from rlhf_core.plan.adapters import adapter_parameters
from rlhf_core.plan.memory import ADAM_STATES, FLOAT
from rlhf_core.plan.stage_plan import CheckpointPlan, StageModels
from rlhf_core.stage_catalogue import LEARNING


def checkpoint_plan(
    recipe: Recipe, stage: str, models: StageModels, kind: str
) -> CheckpointPlan | None:
    """Return the checkpoints of a stage that learns; None for another one.

    A checkpoint has 12 bytes per learning weight, of all ranks together: the weight and AdamW's
    two moments in float32. kind: of the devices, 'gpu' or 'cpu'.
    """
    section = recipe.section(stage) if stage in LEARNING else None
    if not isinstance(section, Training):
        return None
    learning = sum(
        _learning(recipe, models, model, section.lora) for model in _learners(recipe, stage)
    )
    beside = section.async_checkpoints
    return CheckpointPlan(
        size=FLOAT * (1 + ADAM_STATES) * learning,
        kept=section.keep_checkpoints,
        copied=kind == "gpu" if beside is None else beside,
    )


def _learners(recipe: Recipe, stage: str) -> list[str]:
    if stage != "ppo":
        return ["reward" if stage == "reward" else "policy"]
    ppo = recipe.ppo
    return ["policy", "critic"] if ppo.has_critic and not ppo.shares_critic else ["policy"]


def _learning(recipe: Recipe, models: StageModels, model: str, lora: LoRA | None) -> int:
    from_reward = model == "reward" or (model == "critic" and recipe.ppo.reward.model_weight)
    shape = models.reward if from_reward else models.policy
    has_head = model != "policy"
    if lora:
        return adapter_parameters(shape, lora) + has_head * shape.hidden
    return shape.scalar if has_head else shape.policy
