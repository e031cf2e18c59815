"""The smallest change that makes a stage fit.

Cheap changes come first, changes that training does not offer yet come last.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from pydantic import ValidationError

from rlhf_core.config import Recipe
from rlhf_core.plan.layout import OWN_SAMPLER, least_rows, longest_row
from rlhf_core.plan.memory import kv_bytes_per_token
from rlhf_core.plan.stage_plan import StageModels, StagePlan
from rlhf_core.plan.stages import plan_stage
from rlhf_core.plan.strategy import Strategy
from rlhf_core.stage_catalogue import SAMPLING

LEAST_KV_ROWS = 8  # longest rows that must fit in vLLM's cache, or generation is very slow
MOST_PER_HOST = 8  # devices of the usual server; tensor parallelism over more is slow
MOST_DOUBLINGS = 6  # of the number of devices
UNOFFERED = 100  # a change that no recipe offers costs more than all that it offers together
DOUBLING = 10_000  # more devices cost more than any change of settings
CostOfValue = dict[Any, int]
COSTS: dict[str, CostOfValue] = {  # by setting, in the order in which they are tried
    "dtype": {"bfloat16": 1},
    "zero_stage": {1: 1, 2: 2, 3: 3},
    "checkpointing": {True: 4},
    "sampler_sleeps": {True: 5},
    "offload_optimizer": {True: 7, "disk": 7},
    "sampler_over": {MOST_PER_HOST: 8},
    "frozen": {"sharded": 6, "offloaded": UNOFFERED + 6},
    "half_weights": {True: UNOFFERED + 7},
}
# what saves nothing on a device of this kind: on a CPU, all is in host memory anyway
IN_VAIN: dict[str, set[tuple[str, Any]]] = {
    "cpu": {("sampler_sleeps", True), ("offload_optimizer", True)},
    "gpu": {("offload_optimizer", "disk")},
}
ON_DISK = "the optimizer's moments on disk"
TEXTS = {
    "checkpointing": "gradient checkpointing",
    "sampler_sleeps": "vLLM asleep while the policy learns",
    "offload_optimizer": "optimizer states in host memory",
    "sampler_over": "one copy in vLLM over several devices (tensor parallelism)",
    "half_weights": "bfloat16 weights and gradients, float32 master weights with the optimizer",
}
OPTIONS = {
    "checkpointing": "{stage}.activation_checkpointing=true",
    "sampler_sleeps": "{stage}.sampling.sleep=true",
    "offload_optimizer": "{stage}.offload_optimizer={offload}",
    "sampler_over": "{stage}.sampling.tensor_parallel={over}",
}


@dataclass(frozen=True)
class Change:
    """One setting that differs.

    option: its option on the command line, empty if training does not offer the change yet.
    """

    text: str
    option: str = ""


@dataclass(frozen=True)
class Remedy:
    """Changes that together make a stage fit, and the plan with them."""

    changes: tuple[Change, ...]
    plan: StagePlan


def find_remedy(
    recipe: Recipe, models: StageModels, plan: StagePlan, *, doubling: int = DOUBLING
) -> Remedy | None:
    """Return the cheapest changes with which the stage fits, or None.

    Sets of changes are tried by their cost, each with the smallest microbatch and cache. For the
    first set that fits, microbatch and cache are then made as large as still fits.
    doubling: cost of twice as many devices; 1 makes them cheap.
    """

    def build(strategy: Strategy) -> StagePlan:
        return plan_stage(recipe, plan.stage, models, strategy, plan.hardware)

    tokens = _token_levels(recipe, plan)
    caches = _cache_levels(recipe, plan, models)
    loads = _loading(recipe, plan.stage)
    for strategy in _by_cost(plan, doubling):
        smallest = replace(
            strategy, micro_batch_tokens=tokens[-1], kv_cache_mib=caches(strategy)[-1]
        )
        if not (loads(strategy) and build(smallest).fits):
            continue
        levels = product(range(len(tokens)), range(len(caches(strategy))))
        sizes = sorted(levels, key=lambda pair: (sum(pair), pair))
        for i, j in sizes:
            found = build(
                replace(strategy, micro_batch_tokens=tokens[i], kv_cache_mib=caches(strategy)[j])
            )
            if found.fits:
                return Remedy(tuple(_changes(plan, found.strategy)), found)
    return None


def _loading(recipe: Recipe, stage: str) -> Callable[[Strategy], bool]:
    """Return a check that a recipe with a strategy's settings would be loaded.

    ZeRO 3 takes no shared critic, and so on.
    """
    if stage == OWN_SAMPLER:
        return lambda strategy: True
    section = recipe.section(stage)
    values = section.model_dump()

    @cache
    def loads(**changes: object) -> bool:
        try:
            type(section).model_validate(
                values | {name: value for name, value in changes.items() if name in values}
            )
        except ValidationError:
            return False
        return True

    def loading(strategy: Strategy) -> bool:
        frozen = "sharded" if strategy.frozen == "sharded" else "whole"
        return loads(
            zero_stage=strategy.zero_stage,
            offload_optimizer=strategy.offload_optimizer,
            frozen=frozen,
        )

    return loading


def _by_cost(plan: StagePlan, doubling: int) -> Iterator[Strategy]:
    """Yield every layout, microbatch and cache aside, cheapest first; the present one costs 0."""
    now = plan.strategy
    options = [_options(plan, name) for name in COSTS]
    options.append(
        [(doubling * k, ("devices", now.devices * 2**k)) for k in range(MOST_DOUBLINGS + 1)]
    )
    layouts: list[tuple[int, dict[str, Any]]] = [
        (sum(cost for cost, _ in chosen), dict(pair for _, pair in chosen))
        for chosen in product(*options)
    ]
    for _, values in sorted(layouts, key=lambda layout: layout[0]):
        most = now.own_sampler or values["devices"]
        strategy = replace(now, **values | {"sampler_over": min(values["sampler_over"], most)})
        if is_possible(plan.stage, strategy):
            yield strategy


def _options(plan: StagePlan, name: str) -> list[tuple[int, tuple[str, Any]]]:
    """Return the cost and the value of one setting's choices; the present one comes first."""
    present = getattr(plan.strategy, name)
    choices = [(0, (name, present))]
    if _applies(plan.stage, name):
        choices += [
            (cost, (name, value))
            for value, cost in COSTS[name].items()
            if value != present and (name, value) not in IN_VAIN[plan.hardware.kind]
        ]
    if name == "zero_stage":  # never less than the recipe's
        return [(cost, (name, stage)) for cost, (name, stage) in choices if stage >= present]
    return choices


def _applies(stage: str, name: str) -> bool:
    """Return True if a stage has what the setting changes.

    That is an optimizer, a sampler or a model that does not learn.
    """
    if stage == OWN_SAMPLER:
        return name in ("dtype", "sampler_over")
    if name in ("sampler_sleeps", "sampler_over", "frozen"):
        return stage in SAMPLING
    return name == "dtype" or stage != "evaluate"


def is_possible(stage: str, strategy: Strategy) -> bool:
    """Return True if training could run this layout.

    Host memory and half weights need ZeRO's own master weights, and one device divides nothing.
    Frozen models are sharded like the actor, by ZeRO 3. The evaluation has several devices only
    with sharded models.
    """
    if strategy.frozen == "sharded" and (
        strategy.devices == 1 or (stage == "ppo" and strategy.zero_stage < 3)
    ):
        return False
    if stage == "evaluate" and strategy.frozen != "sharded" and strategy.sampler_over > 1:
        return False
    in_host = strategy.offload_optimizer is True
    return strategy.zero_stage > 0 or not (in_host or strategy.half_weights)


def _token_levels(recipe: Recipe, plan: StagePlan) -> list[int]:
    """Return micro_batch_tokens and its halves, down to one longest row.

    Where rows come in pairs, down to two longest rows.
    """
    least = longest_row(recipe, plan.stage) * least_rows(plan.stage)
    return _halves(plan.strategy.micro_batch_tokens, least)


def _cache_levels(
    recipe: Recipe, plan: StagePlan, models: StageModels
) -> Callable[[Strategy], list[int]]:
    """Return a function of a strategy: kv_cache_mib and its halves, down to LEAST_KV_ROWS rows."""

    def levels(strategy: Strategy) -> list[int]:
        row = longest_row(recipe, plan.stage) * kv_bytes_per_token(models.policy, strategy)
        return _halves(strategy.kv_cache_mib, -(-LEAST_KV_ROWS * row // 2**20))

    return levels


def _halves(value: int, least: int) -> list[int]:
    levels = [value]
    while levels[-1] // 2 >= least and levels[-1] > 1:
        levels.append(levels[-1] // 2)
    return levels


def _changes(plan: StagePlan, after: Strategy) -> Iterator[Change]:
    stage, before = plan.stage.partition(".")[0], plan.strategy
    if after.micro_batch_tokens != before.micro_batch_tokens:
        yield Change(
            "smaller microbatches", f"--set {stage}.micro_batch_tokens={after.micro_batch_tokens}"
        )
    if after.kv_cache_mib != before.kv_cache_mib:
        yield Change(
            "a smaller KV cache", f"--set {stage}.sampling.kv_cache_mib={after.kv_cache_mib}"
        )
    if after.dtype != before.dtype:
        yield Change("matrix products in bfloat16", f"--set model.dtype={after.dtype}")
    if after.zero_stage != before.zero_stage:
        yield Change(
            f"ZeRO stage {after.zero_stage}", f"--set {stage}.zero_stage={after.zero_stage}"
        )
    for name, text in TEXTS.items():
        if getattr(after, name) != getattr(before, name):
            on_disk = getattr(after, name) == "disk"
            yield Change(ON_DISK if on_disk else text, _option(name, stage, after))
    if after.frozen != before.frozen:
        where = {"sharded": "over all devices", "offloaded": "in host memory"}[after.frozen]
        option = f"--set {stage}.frozen=sharded" if after.frozen == "sharded" else ""
        yield Change(f"models that do not learn {where}, gathered layer by layer", option)
    if after.devices != before.devices:
        option = (
            f"--set ppo.sampling.own_devices={after.devices}"
            if plan.stage == OWN_SAMPLER
            else f"--gpus {after.devices}"
        )
        yield Change(f"{after.devices} devices", option)


def _option(name: str, stage: str, after: Strategy) -> str:
    """Return the option on the command line, '' for a change that no recipe offers."""
    if name not in OPTIONS:
        return ""
    offload = str(after.offload_optimizer).lower()
    option = OPTIONS[name].format(stage=stage, over=after.sampler_over, offload=offload)
    return f"--set {option}"
