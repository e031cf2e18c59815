"""`rlhf plan`: how much memory each stage of a recipe needs on each device, and what would make it
fit.
"""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rlhf_core.errors import ConfigError

DOES_NOT_FIT = 3  # exit code
UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}
DEFAULT_MEMORY = "80GiB"
# glibc then maps each tensor by itself and returns it when it is freed
GIVES_BACK = "MALLOC_MMAP_THRESHOLD_"
GPU_OVERHEAD = 2 * 2**30  # CUDA context, NCCL, cuBLAS, rounding: infra/docs/results/memory.md
CPU_OVERHEAD = int(0.7 * 2**30)  # Python with torch, transformers and DeepSpeed imported, measured
CPU_OVERHEAD_VLLM = int(0.9 * 2**30)  # with vLLM as well, measured
WIDE = 200  # columns of a table that is not printed to a terminal


def _recipes(incomplete: str) -> list[str]:
    from rlhf_core.config import RECIPES

    return sorted(path.stem for path in RECIPES.glob("*.toml") if path.stem.startswith(incomplete))


def _presets(incomplete: str) -> list[str]:
    from rlhf_core.plan.presets import PRESETS

    return sorted(name for name in PRESETS if name.startswith(incomplete))


def plan(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe's name or a .toml file: its settings",
            autocompletion=_recipes,
        ),
    ],
    gpus: Annotated[
        int | None,
        typer.Option(help="Devices that share the work [default: those of this machine]"),
    ] = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help=f"Of one device, e.g. 80GiB or 80GB [default with --gpus: {DEFAULT_MEMORY}]",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A published shape (7b, llama-3-70b, ...) for all models",
            autocompletion=_presets,
        ),
    ] = None,
    model_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A model's config.json for all models, in place of the recipe's"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key; repeatable"),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a stacked bar a stage: .svg or .png")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output")
    ] = False,
) -> None:
    """Memory of every stage on each device: weights, gradients, optimizer, activations, logits, KV
    cache; does it fit?

    Nothing is loaded or trained. Formulas: infra/docs/results/memory.md. Exit codes: 0 every stage fits, 3
    one does not.
    """
    from rlhf_core.config import load_recipe
    from rlhf_core.plan.layout import stages_of, strategy_of
    from rlhf_core.plan.picture import draw_plans
    from rlhf_core.plan.source import find_models
    from rlhf_core.plan.stages import plan_stage
    from rlhf_core.plan.strategy import Hardware

    loaded = load_recipe(recipe, settings or [])
    devices, kind, capacity = find_devices(gpus, gpu_memory)
    models = find_models(loaded, name=model, config=model_config)
    plans = [
        plan_stage(
            loaded,
            stage,
            models,
            strategy_of(loaded, stage, devices),
            Hardware(kind, capacity, _overhead(kind, stage)),
        )
        for stage in stages_of(loaded, kind)
    ]
    remedies = [_remedies(loaded, models, stage) for stage in plans]
    if picture:
        draw_plans(plans, picture)
    if as_json:
        _print_json(models, plans, remedies)
    else:
        _print_plans(loaded, models, plans, remedies)
    if not all(stage.fits for stage in plans):
        raise typer.Exit(DOES_NOT_FIT)


def parse_memory(text: str) -> int:
    """Bytes in '80GiB', '80 GB' or '512MiB'. Raises ConfigError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)B\s*", text.upper())
    size = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if size <= 0:
        raise ConfigError(
            f"--gpu-memory {text!r} is not a size; expected a positive number with its unit, "
            "e.g. 80GiB (2^30 bytes each) or 80GB (10^9)."
        )
    return size


def find_devices(gpus: int | None, gpu_memory: str | None) -> tuple[int, str, int]:
    """How many devices, 'gpu' or 'cpu', and the bytes of one: as asked for, else this machine's.
    Raises ConfigError.
    """
    if gpus is not None and gpus < 1:
        raise ConfigError(
            f"--gpus {gpus}: expected 1 or more. Leave it out to plan for this machine."
        )
    if gpus is not None or gpu_memory is not None:
        return gpus or 1, "gpu", parse_memory(gpu_memory or DEFAULT_MEMORY)
    from tasks.execution.launcher import has_cuda

    if has_cuda():
        import torch

        return torch.cuda.device_count(), "gpu", torch.cuda.get_device_properties(0).total_memory
    from flows.platform.doctor import memory_limit

    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 1, "cpu", min(installed, memory_limit() or installed)


def _overhead(kind: str, stage: str) -> int:
    if kind == "gpu":
        return GPU_OVERHEAD
    return CPU_OVERHEAD_VLLM if stage in ("ppo", "evaluate") else CPU_OVERHEAD


def _print_json(models, plans, remedies) -> None:
    from rlhf_core.plan import report

    first = plans[0]
    values = {
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
    print(json.dumps(values, indent=2))


def _shapes(models):
    return ("policy", models.policy, models.policy.policy), (
        "reward",
        models.reward,
        models.reward.scalar,
    )


def _print_plans(recipe, models, plans, remedies) -> None:
    from rich.console import Console
    from rich.text import Text

    from rlhf_core.plan import report
    from tasks.execution.stage_process import environment

    console = Console()
    console = console if console.is_terminal else Console(width=WIDE)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for role, shape, count in _shapes(models):
        say(f"{role}: {shape.name}, {count:,} parameters")
    for source in dict.fromkeys(shape.source for _, shape, _ in _shapes(models)):
        say(f"  shape: {source}")
    for stage, found in zip(plans, remedies, strict=True):
        console.print(
            Text(_headline(stage), style="bold" if stage.fits else "bold red"), soft_wrap=True
        )
        console.print(_table(stage))
        if cache := report.cache_capacity(recipe, models, stage):
            say(
                f"  The sampler's cache holds {cache[0]:,} tokens: {cache[1]:,} of the longest rows"
                " at once."
            )
        if not stage.fits:
            _print_remedies(found, say)
    sizes = report.half_weights_gb(models)
    each = ", ".join(f"{role} {size:,.1f}" for role, size in sizes.items())
    say(
        f"Weights alone at 2 bytes a parameter, GB (10^9 bytes): {each}; {sum(sizes.values()):,.1f}"
        " in all."
    )
    if plans[0].hardware.kind == "cpu" and GIVES_BACK not in environment():
        say(
            "glibc keeps freed memory: the models' part is 22% to 43% larger (measured) unless"
            f" {GIVES_BACK}=65536 is set."
        )
    if plans[0].strategy.devices > 1:
        ranks = f"distributed.ranks={plans[0].strategy.devices}"
        say(f"Training has these devices with --set {ranks}, or a hostfile of as many slots.")


def _headline(stage) -> str:
    """What a stage needs, of how much, and with which settings."""
    from rlhf_core.plan import report
    from rlhf_core.plan.layout import OWN_SAMPLER
    from rlhf_core.plan.strategy import GIB

    learning = (
        "" if stage.stage in ("evaluate", OWN_SAMPLER) else f", ZeRO {stage.strategy.zero_stage}"
    )
    tokens = (
        ""
        if stage.stage == OWN_SAMPLER
        else f", {stage.strategy.micro_batch_tokens:,} tokens at once"
    )
    how, needs, has = stage.strategy, stage.peak / GIB, stage.hardware.capacity / GIB
    return (
        f"{stage.stage}: {needs:,.1f} of {has:,.1f} GiB on each of {how.devices} device(s),"
        f" {report.fit_text(stage)}\n  {how.dtype}{learning}{tokens}; peak: {stage.peak_phase}; in"
        " brackets: held at another time"
    )


def _table(stage):
    """The models of a stage and what each holds at its peak, GiB on one device."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rlhf_core.plan import report
    from rlhf_core.plan.stage_plan import MEMORY_KINDS
    from rlhf_core.plan.strategy import GIB

    table = Table("GiB", box=SIMPLE_HEAD)
    for kind in (*MEMORY_KINDS, "at the peak"):
        table.add_column(kind, justify="right")
    for model, sizes, elsewhere in report.table_rows(stage):
        cells = [_cell(sizes[kind] / GIB, kind in elsewhere) for kind in MEMORY_KINDS]
        table.add_row(
            model,
            *cells,
            f"{sum(sizes[kind] for kind in MEMORY_KINDS if kind not in elsewhere) / GIB:,.2f}",
        )
    table.add_row(
        "overhead",
        *[""] * len(MEMORY_KINDS),
        f"{stage.hardware.overhead / GIB:,.2f}",
        end_section=True,
    )
    table.add_row("total", *[""] * len(MEMORY_KINDS), f"{stage.peak / GIB:,.2f}")
    return table


def _cell(size: float, elsewhere: bool) -> str:
    if not size:
        return ""
    text = f"{size:,.2f}" if size >= 0.01 else "<0.01"
    return f"({text})" if elsewhere else text


def _remedies(recipe, models, stage) -> list:
    """The smallest change; where training does not offer it, also the smallest in which more
    devices cost little.
    """
    from rlhf_core.plan.remedies import find_remedy

    if stage.fits:
        return []
    first = find_remedy(recipe, models, stage)
    if first is None or all(change.option for change in first.changes):
        return [first] if first else []
    second = find_remedy(recipe, models, stage, doubling=1)
    return [first] if second == first else [first, second]


def _print_remedies(remedies: list, say) -> None:
    from rlhf_core.plan.strategy import GIB

    if not remedies:
        say("  No change that is known here makes it fit.")
    for number, remedy in enumerate(remedies):
        host = (
            f", and {remedy.plan.host / GIB:,.1f} GiB of host memory a device"
            if remedy.plan.host
            else ""
        )
        what = "Smallest change that makes it fit" if number == 0 else "Or with more devices"
        say(f"  {what} ({remedy.plan.peak / GIB:,.1f} GiB{host}):")
        for change in remedy.changes:
            say(f"    {change.text}: {change.option or 'not offered yet'}")
