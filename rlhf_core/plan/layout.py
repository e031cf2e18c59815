"""The layout that a recipe gives each stage, and the longest row that the stage may see."""

from dataclasses import replace

from rlhf_core.config import PPO, Evaluate, Recipe, Training
from rlhf_core.plan.strategy import Strategy
from rlhf_core.stage_catalogue import SAMPLING, STAGES, Stage

MODEL_STAGES = tuple(name for name, stage in STAGES.items() if stage.planned)
OWN_SAMPLER = "ppo.sampling"  # planned like a stage: vLLM on devices of its own


def stages_of(recipe: Recipe, kind: str = "gpu") -> list[str]:
    """Return the stages of the recipe that hold models, then a sampler on devices of its own.

    kind: 'gpu' or 'cpu'. On a CPU, the sampler shares one memory with everything else.
    """
    apart = recipe.runs("ppo") and recipe.ppo.sampling.own_devices and kind == "gpu"
    return [stage for stage in MODEL_STAGES if recipe.runs(stage)] + (
        [OWN_SAMPLER] if apart else []
    )


def strategy_of(recipe: Recipe, stage: str, devices: int) -> Strategy:
    """Return the layout that the recipe gives a stage on `devices` training devices."""
    if stage == OWN_SAMPLER:
        return _own_strategy(recipe)
    section = recipe.section(stage)
    strategy = Strategy(
        micro_batch_tokens=section.micro_batch_tokens,
        dtype=recipe.model.dtype,
        logits_mib=recipe.model.logits_mib,
        devices=devices,
    )
    if isinstance(section, Training):
        strategy = replace(
            strategy,
            zero_stage=section.zero_stage,
            checkpointing=section.activation_checkpointing,
            offload_optimizer=section.offload_optimizer,
        )
    if isinstance(section, PPO | Evaluate):
        strategy = replace(
            strategy,
            frozen=section.frozen,
            frozen_dtype=recipe.model.frozen_dtype,
            kv_cache_mib=section.sampling.kv_cache_mib,
            sampler_over=section.sampling.tensor_parallel,
            sampler_sleeps=section.sampling.sleep,
            own_sampler=section.sampling.own_devices,
        )
    return strategy


def _own_strategy(recipe: Recipe) -> Strategy:
    sampling = recipe.ppo.sampling
    return Strategy(
        micro_batch_tokens=1,
        dtype=recipe.model.dtype,
        kv_cache_mib=sampling.kv_cache_mib,
        devices=sampling.own_devices,
        sampler_over=sampling.tensor_parallel,
    )


def longest_row(recipe: Recipe, stage: str) -> int:
    """Return the tokens of the longest prompt with its longest response that a stage may see."""
    section = _stage(stage).name
    generated = recipe.sampling(section).max_new_tokens if section in SAMPLING else 0
    read = recipe.data.max_response_tokens if _stage(stage).reads_replies else 0
    return recipe.data.max_prompt_tokens + max(generated, read)


def least_rows(stage: str) -> int:
    """Return the rows that stay together in a microbatch: the two of a pair, else one."""
    return 2 if _stage(stage).reads_pairs else 1


def _stage(name: str) -> Stage:
    """Return the stage of a planned name, which for OWN_SAMPLER is the one that it samples for."""
    return STAGES[name.partition(".")[0]]
