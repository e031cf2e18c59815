"""Check the data and the base model for what later stages need, before anything is trained."""

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.config import LoRA, Recipe, Reward, Training
from rlhf_core.config.stage_configs import Needs
from rlhf_core.stage_catalogue import LEARNING, SAMPLING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def needs_of(recipe: Recipe) -> Needs:
    """Return what the stages need that the recipe runs and trains.

    Nothing is needed of the base model if model.sft is given.
    """
    trains = {"sft": recipe.model.sft is None, "reward": recipe.model.reward is None}
    running = [stage for stage in LEARNING if recipe.runs(stage) and trains.get(stage, True)]
    on_base = recipe.model.sft is None
    sections = [recipe.section(stage) for stage in running]
    trained = [one for one in sections if isinstance(one, Training) and on_base]
    adapters = [one.lora for one in trained if one.lora]
    samplers = [recipe.sampling(stage) for stage in SAMPLING if recipe.runs(stage) and on_base]
    reward = recipe.reward if "reward" in running else Reward()
    return Needs(
        strength=reward.margin_scale > 0,
        votes=reward.smoothing_from_votes,
        functions=tuple(
            one for one in recipe.ppo.reward.functions if one.columns and "ppo" in running
        ),
        adapters=tuple(lora for lora in adapters if lora.target_modules != "all-linear"),
        tensor_parallel=tuple(one.tensor_parallel for one in samplers if one.tensor_parallel > 1),
        router_aux_loss_coef=max((one.router_aux_loss_coef or 0.0 for one in trained), default=0.0),
    )


def require(needs: Needs, splits: dict[str, list[dict]], model: Path) -> None:
    """Raise BadInput for the first need that is not met, with the message of the later stage.

    splits: records by split; model: folder of the base model.
    """
    if needs.strength or needs.votes:
        from rlhf_core.reward.labels import labels_of

        labels_of(
            splits["comparisons_train"],
            Reward(margin_scale=float(needs.strength), smoothing_from_votes=needs.votes),
        )
    if needs.functions:
        from rlhf_core.ppo.rewards import require_columns

        for function in needs.functions:
            require_columns(function, splits["prompts_train"])
    if needs.adapters:
        _require_modules(needs.adapters, model)
    if needs.router_aux_loss_coef:
        from rlhf_core.engine.router import router_loss

        router_loss(_shapes(model), needs.router_aux_loss_coef)
    for size in needs.tensor_parallel:
        from rlhf_core.sampling.vllm import require_heads

        require_heads(model, size)


def _require_modules(adapters: tuple[LoRA, ...], folder: Path) -> None:
    from rlhf_core.modeling.lora import require_linear

    model = _shapes(folder)
    for adapter in adapters:
        assert adapter.target_modules != "all-linear"  # needs_of left these out
        require_linear(model, adapter.target_modules)


def _shapes(folder: Path) -> "PreTrainedModel":
    """Return the model of a folder without its weights: shapes alone, no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder, trust_remote_code=False)
        )
