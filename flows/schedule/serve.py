"""Serve recipes from this process, without a work pool and a worker."""

from collections.abc import Callable

from prefect import serve as prefect_serve

from flows.schedule.deploy import DeploymentOptions, build_deployments
from flows.schedule.server import require_server
from rlhf_core.config import load_recipe
from rlhf_core.errors import BadInput
from tasks.execution import concurrency


def serve(
    names: list[str], settings: list[str], when: tuple[str | None, str], tell: Callable[[str], None]
) -> None:
    """Serve one deployment per recipe, named as the recipe, until Ctrl-C or SIGTERM.

    when: cron expression and timezone. Raises BadInput for two recipes of one name.
    """
    require_server()
    recipes = [load_recipe(name, settings) for name in names]
    if len({recipe.name for recipe in recipes}) < len(recipes):
        raise BadInput(
            "two of these recipes have the same name; a served deployment is named as its recipe."
        )
    made = [
        build_deployments(recipe, DeploymentOptions(recipe.name, None, *when))[0]
        for recipe in recipes
    ]
    concurrency.create_limits(
        [
            *map(concurrency.model_limit, {recipe.registry.name for recipe in recipes}),
            *concurrency.device_limits(),
        ]
    )
    for deployment in made:
        tell(
            f"serving {deployment.full_name}; run it now: prefect deployment run"
            f" '{deployment.full_name}'"
        )
    prefect_serve(*made, print_starting_message=False)
