"""Start the process of a run's first stage while Prefect's own server is still starting.

The flow remains what runs the stages: its task takes the process over, follows it and records it.
"""

import contextlib
import logging
from collections.abc import Iterator

from rlhf_core.config import Recipe
from rlhf_core.rundir import StageSpec
from rlhf_core.stage_catalogue import LEARNING, STAGES, steps
from tasks.execution import stage_process
from tasks.mirror.remote import Remote
from tasks.records.workspace import Workspace
from tasks.run_context import require_runnable, span
from tasks.stages.contract import outputs_of, spec_of
from tasks.stages.spec import Artifacts
from tasks.tracking.account import is_server

log = logging.getLogger("rlhf.first_stage")


@contextlib.contextmanager
def started(recipe: Recipe, from_stage: str | None, until: str | None) -> Iterator[None]:
    """Have the run's first stage started in this block, once nothing can refuse the run any more.

    It ends with the block when the run has not taken it over. A run that is refused starts nothing
    here: its flow says why.
    """
    with contextlib.ExitStack() as ends:
        try:
            workspace = Workspace.here()
            if spec := _first_spec(recipe, workspace, from_stage, until):
                stage = stage_process.started_ahead(spec, workspace.run_dir(spec))
                ends.enter_context(stage)
        except Exception as error:
            log.info("no stage was started ahead: %s", error)
        yield


def _first_spec(
    recipe: Recipe, workspace: Workspace, from_stage: str | None, until: str | None
) -> StageSpec | None:
    """Return the spec of the first stage that has something to run; None where it has to wait.

    Servers and limits are asked by the flow alone, as what a stage that learns must wait for.
    Raises what a run raises that is refused.
    """
    if Remote.here() or is_server(workspace.tracking_uri) or recipe.limits.given:
        return None
    first, last = span(recipe, from_stage, until)
    have: Artifacts = {}
    for name, stage in STAGES.items():
        if not recipe.runs(name):
            continue
        if name in LEARNING or not steps().index(first) <= steps().index(name) <= steps().index(
            last
        ):
            return None
        spec = spec_of(stage, recipe, have)
        if spec is None:
            have |= outputs_of(stage, recipe, None)
        elif (workspace.run_dir(spec) / "result.json").exists():
            return None
        else:
            require_runnable(recipe, workspace, first, last)
            return spec
    return None
