"""Check the data and the base model for what later stages need, before anything is trained."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rlhf_core.benchmarks.names import parse
from rlhf_core.config import LoRA, Recipe, Reward, Training
from rlhf_core.config.stage_configs import Needs
from rlhf_core.patterns import fixed_folder
from rlhf_core.stage_catalogue import LEARNING, NEW_TRAIN, SAMPLING

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
    evaluated = [recipe.evaluate] if recipe.runs("evaluate") and on_base else []
    sharing = [one for one in trained if getattr(one, "share_prompts", False)]
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
        adapter_sync=_synced_rank(recipe) if "ppo" in running and on_base else 0,
        router_aux_loss_coef=max((one.router_aux_loss_coef or 0.0 for one in trained), default=0.0),
        packing=any(one.packing for one in [*trained, *evaluated]),
        share_prompts=bool(sharing),
        sharing_router_coefs=tuple(dict.fromkeys(one.router_aux_loss_coef for one in sharing)),
        benchmarks=_benchmarks_of(recipe),
    )


def _synced_rank(recipe: Recipe) -> int:
    """Return the rank of the adapter that vLLM gets alone; 0: it gets weights."""
    lora = recipe.ppo.lora
    return lora.rank if lora and recipe.ppo.sampling.adapter_sync else 0


def _benchmarks_of(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return the metrics of each benchmark that a gate or the contest looks at."""
    rules = [*recipe.evaluate.gate.rules().values(), *recipe.gates.values()]
    metrics = [metric for rule in rules for metric in (rule.metric, rule.minus) if metric]
    metrics.append(recipe.registry.contest.metric)
    named = [parts for metric in metrics if (parts := parse(metric))]
    return {
        task: tuple(sorted({parts.metric for parts in named if parts.task == task}))
        for task in recipe.evaluate.benchmarks.names
    }


def require(
    needs: Needs,
    splits: Mapping[str, Sequence[dict]],
    model: Path,
    task_files: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Raise BadInput for the first need that is not met, with the message of the later stage.

    splits: records by split; model: folder of the base model; task_files: of each benchmark.
    """
    if needs.strength or needs.votes:
        from rlhf_core.reward.labels import labels_of

        old, new = splits["comparisons_train"], splits.get(NEW_TRAIN)
        labels_of(
            [*old, *new] if new else old,
            Reward(margin_scale=float(needs.strength), smoothing_from_votes=needs.votes),
        )
    if needs.functions:
        from rlhf_core.ppo.rewards import require_columns

        for function in needs.functions:
            require_columns(function, splits["prompts_train"])
    _require_of_model(needs, model)
    if needs.benchmarks:
        from rlhf_core.evaluation.benchmarks.harness import load_task, require_metrics
        from rlhf_core.evaluation.benchmarks.right_answers import require_right_answers

        for name, metrics in needs.benchmarks.items():
            task = load_task(name, fixed_folder(task_files[name]))
            require_metrics(task, metrics)
            require_right_answers(task)


def _require_of_model(needs: Needs, model: Path) -> None:
    if needs.adapters:
        _require_modules(needs.adapters, model)
    if needs.router_aux_loss_coef:
        from rlhf_core.engine.router import router_loss

        router_loss(_shapes(model), needs.router_aux_loss_coef)
    if needs.packing:
        from rlhf_core.modeling.packed_attention import require_whole_attention
        from rlhf_core.modeling.row_borders import require_separate_rows

        require_whole_attention(_shapes(model))
        require_no_balancing(model, needs.sharing_router_coefs)
        require_separate_rows(model, share_prompts=needs.share_prompts)
    for size in needs.tensor_parallel:
        from rlhf_core.sampling.vllm import require_heads

        require_heads(model, size)
    if needs.adapter_sync and find_spec("vllm"):
        from rlhf_core.sampling.adapters import require_adapters

        require_adapters(model, needs.adapter_sync)


def require_no_balancing(model: Path, coefficients: Sequence[float | None]) -> None:
    """Raise BadInput when a mixture of experts learns its balancing loss with shared prompts.

    coefficients: router_aux_loss_coef of the sections that share prompts; None: the model's own.
    """
    from rlhf_core.engine.router import router_loss
    from rlhf_core.modeling.packed_attention import refuse_balancing

    for coefficient in coefficients:
        shapes = _shapes(model)
        refuse_balancing(shapes, router_loss(shapes, coefficient))


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
