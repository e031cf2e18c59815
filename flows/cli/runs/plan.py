"""`rlhf plan`: the memory that each stage of a recipe needs on each device."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.devices import DEFAULT_MEMORY, Devices, find_devices
from flows.cli.options import AsJson, RecipeName, Settings
from flows.cli.output import console, print_json, print_parts

if TYPE_CHECKING:
    from rlhf_core.config import Recipe
    from rlhf_core.plan.remedies import Remedy
    from rlhf_core.plan.stage_plan import StageModels, StagePlan
    from tasks.spending.earlier_runs import StageForecast

DOES_NOT_FIT = 3  # exit code


def preset_names(incomplete: str) -> list[str]:
    """Return the names of the published model shapes that begin with `incomplete`."""
    from rlhf_core.plan.presets import PRESETS

    return sorted(name for name in PRESETS if name.startswith(incomplete))


Gpus = Annotated[
    int | None, typer.Option(help="Devices that share the work (default: those of this machine)")
]
GpuMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help=f"Of one device, e.g. 80GiB or 80GB [default with --gpus: {DEFAULT_MEMORY}]",
    ),
]
ShapeName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A published shape (7b, llama-3-70b, ...) for all models",
        autocompletion=preset_names,
    ),
]
ModelConfig = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A model's config.json for all models, in place of the recipe's"
    ),
]
Picture = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write one stacked bar per stage: .svg or .png")
]


def plan(
    recipe: RecipeName,
    gpus: Gpus = None,
    gpu_memory: GpuMemory = None,
    model: ShapeName = None,
    model_config: ModelConfig = None,
    settings: Settings = None,
    picture: Picture = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the memory of every stage on each device, and check that it fits.

    Counts weights, gradients, optimizer, activations, logits and KV cache. Nothing is loaded or
    trained. Formulas: infra/docs/results/memory.md. Time and money are foreseen where this machine
    has finished stages with the same work. Exit codes: 0 every stage fits, 3 one does not.
    """
    from flows.cli.tables.forecast import forecast_json, forecast_parts
    from flows.cli.tables.plan import plan_json, plan_parts
    from rlhf_core.config import load_recipe
    from rlhf_core.plan.picture import draw_plans
    from tasks.execution.stage_calls import ask

    loaded, devices = load_recipe(recipe, settings or []), find_devices(gpus, gpu_memory)
    models = ask("rlhf_core.plan.source:find_models", loaded, name=model, config=model_config)
    plans = _plans(loaded, models, devices)
    remedies = [_remedies(loaded, models, one) for one in plans]
    if picture:
        draw_plans(plans, picture)
    is_here = gpus is None and gpu_memory is None and model is None and model_config is None
    forecasts, currency = _forecasts(loaded) if is_here else (None, "")
    if as_json:
        foreseen = {"forecast": forecast_json(forecasts), "currency": currency or None}
        print_json(plan_json(models, plans, remedies) | foreseen)
    else:
        print_parts(console(), plan_parts(loaded, models, plans, remedies))
        print_parts(console(), forecast_parts(forecasts, currency))
    if not all(one.fits for one in plans):
        raise typer.Exit(DOES_NOT_FIT)


def _forecasts(recipe: "Recipe") -> "tuple[list[StageForecast], str]":
    """Return what the stages will take by earlier runs here, and the currency of their prices."""
    from tasks.records.workspace import Workspace
    from tasks.spending.earlier_runs import stage_forecasts
    from tasks.spending.spent import prices_of

    workspace = Workspace.here()
    prices = prices_of(recipe, workspace)
    return stage_forecasts(recipe, workspace), prices.currency if prices else ""


def _plans(recipe: "Recipe", models: "StageModels", devices: Devices) -> "list[StagePlan]":
    from rlhf_core.plan.layout import stages_of, strategy_of
    from rlhf_core.plan.stages import plan_stage
    from rlhf_core.plan.strategy import Hardware

    plans = []
    for stage in stages_of(recipe, devices.kind):
        hardware = Hardware(devices.kind, devices.memory, devices.overhead(stage))
        strategy = strategy_of(recipe, stage, devices.count)
        plans.append(plan_stage(recipe, stage, models, strategy, hardware))
    return plans


def _remedies(recipe: "Recipe", models: "StageModels", plan: "StagePlan") -> "list[Remedy]":
    """Return the smallest change that makes a stage fit.

    If training does not offer that change, also return the smallest one in which more devices
    cost little.
    """
    from rlhf_core.plan.remedies import find_remedy

    if plan.fits:
        return []
    first = find_remedy(recipe, models, plan)
    if first is None:
        return []
    if all(change.option for change in first.changes):
        return [first]
    second = find_remedy(recipe, models, plan, doubling=1)
    return [first] if second is None or second == first else [first, second]
