"""A memory plan as tables, sentences and JSON values."""

from collections.abc import Iterator
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rlhf_core.config import Recipe
from rlhf_core.plan import report
from rlhf_core.plan.layout import OWN_SAMPLER
from rlhf_core.plan.remedies import Remedy
from rlhf_core.plan.shape import ModelShape
from rlhf_core.plan.stage_plan import MEMORY_KINDS, StageModels, StagePlan
from rlhf_core.plan.strategy import GIB
from tasks.execution.stage_process import environment

# glibc then maps each tensor by itself and returns it when it is freed
GIVES_BACK = "MALLOC_MMAP_THRESHOLD_"


def plan_json(
    models: StageModels, plans: list[StagePlan], remedies: list[list[Remedy]]
) -> dict[str, object]:
    """Return the plan of all stages; sizes in bytes on one device."""
    first = plans[0]
    return {
        "fits": all(stage.fits for stage in plans),
        "devices": first.strategy.devices,
        "kind": first.hardware.kind,
        "models": {
            role: asdict(shape) | {"parameters": count} for role, shape, count in _shapes(models)
        },
        "half_weights_gb": report.half_weights_gb(models),
        "stages": [
            report.plan_as_json(stage, found) for stage, found in zip(plans, remedies, strict=True)
        ],
    }


def plan_parts(
    recipe: Recipe, models: StageModels, plans: list[StagePlan], remedies: list[list[Remedy]]
) -> Iterator[RenderableType]:
    """Yield the models, every stage with its table and remedies, and what holds for all stages."""
    shapes = _shapes(models)
    for role, shape, count in shapes:
        yield Text(f"{role}: {shape.name}, {count:,} parameters")
    for source in dict.fromkeys(shape.source for _, shape, _ in shapes):
        yield Text(f"  shape: {source}")
    for stage, found in zip(plans, remedies, strict=True):
        yield from _stage_parts(recipe, models, stage, found)
    yield from _notes(models, plans[0])


def _shapes(models: StageModels) -> list[tuple[str, ModelShape, int]]:
    """Return role, shape and number of parameters of the policy and the reward model."""
    return [
        ("policy", models.policy, models.policy.policy),
        ("reward", models.reward, models.reward.scalar),
    ]


def _stage_parts(
    recipe: Recipe, models: StageModels, stage: StagePlan, remedies: list[Remedy]
) -> Iterator[RenderableType]:
    yield Text(_headline(stage), style="bold" if stage.fits else "bold red")
    yield _table(stage)
    if cache := report.cache_capacity(recipe, models, stage):
        yield Text(
            f"  The sampler's cache holds {cache[0]:,} tokens: {cache[1]:,} of the longest rows"
            " at once."
        )
    if stage.checkpoints:
        yield Text(f"  {report.checkpoint_text(stage.checkpoints)}")
    if not stage.fits:
        yield from _remedy_lines(remedies)


def _notes(models: StageModels, first: StagePlan) -> Iterator[Text]:
    sizes = report.half_weights_gb(models)
    each = ", ".join(f"{role} {size:,.1f}" for role, size in sizes.items())
    yield Text(
        f"Weights alone at 2 bytes a parameter, GB (10^9 bytes): {each}; {sum(sizes.values()):,.1f}"
        " in all."
    )
    if first.hardware.kind == "cpu" and GIVES_BACK not in environment():
        yield Text(
            "glibc keeps freed memory: the models' part is 15% to 45% larger (measured) unless"
            f" {GIVES_BACK}=65536 is set."
        )
    if first.strategy.devices > 1:
        ranks = f"distributed.ranks={first.strategy.devices}"
        yield Text(
            f"Training has these devices with --set {ranks}, or a hostfile of as many slots."
        )


def _headline(stage: StagePlan) -> str:
    """Return what a stage needs, what it has, and its settings."""
    zero = f", ZeRO {stage.strategy.zero_stage}"
    learning = "" if stage.stage in ("evaluate", OWN_SAMPLER) else zero
    batch = f", {stage.strategy.micro_batch_tokens:,} tokens at once"
    tokens = "" if stage.stage == OWN_SAMPLER else batch
    how, needs, has = stage.strategy, stage.peak / GIB, stage.hardware.capacity / GIB
    return (
        f"{stage.stage}: {needs:,.1f} of {has:,.1f} GiB on each of {how.devices} device(s),"
        f" {report.fit_text(stage)}\n  {how.dtype}{learning}{tokens}; peak: {stage.peak_phase}; in"
        " brackets: held at another time"
    )


def _table(stage: StagePlan) -> Table:
    """Return what each model of a stage holds at its peak, GiB on one device."""
    table = Table("GiB", box=SIMPLE_HEAD)
    for kind in (*MEMORY_KINDS, "at the peak"):
        table.add_column(kind, justify="right")
    for model, sizes, elsewhere in report.table_rows(stage):
        cells = [_cell(sizes[kind] / GIB, kind in elsewhere) for kind in MEMORY_KINDS]
        at_peak = sum(sizes[kind] for kind in MEMORY_KINDS if kind not in elsewhere)
        table.add_row(model, *cells, f"{at_peak / GIB:,.2f}")
    blank = [""] * len(MEMORY_KINDS)
    overhead = f"{stage.hardware.overhead / GIB:,.2f}"
    table.add_row("overhead", *blank, overhead, end_section=True)
    table.add_row("total", *blank, f"{stage.peak / GIB:,.2f}")
    return table


def _cell(size: float, elsewhere: bool) -> str:
    if not size:
        return ""
    text = f"{size:,.2f}" if size >= 0.01 else "<0.01"
    return f"({text})" if elsewhere else text


def _remedy_lines(remedies: list[Remedy]) -> Iterator[Text]:
    if not remedies:
        yield Text("  No change that is known here makes it fit.")
    for number, remedy in enumerate(remedies):
        host_gib = remedy.plan.host / GIB
        host = f", and {host_gib:,.1f} GiB of host memory a device" if remedy.plan.host else ""
        what = "Smallest change that makes it fit" if number == 0 else "Or with more devices"
        yield Text(f"  {what} ({remedy.plan.peak / GIB:,.1f} GiB{host}):")
        for change in remedy.changes:
            yield Text(f"    {change.text}: {change.option or 'not offered yet'}")
