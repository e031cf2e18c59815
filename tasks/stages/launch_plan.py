"""The commands that would start the stages of a recipe; nothing is started."""

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rlhf_core.config import Recipe
from rlhf_core.config.stage_configs import StageConfig
from rlhf_core.rundir import StageSpec, read_result
from rlhf_core.stage_catalogue import LEARNING, SFT, STAGES, Stage
from tasks.execution import launcher, stage_process
from tasks.records.workspace import Workspace
from tasks.stages.contract import check_paths, outputs_of, spec_of
from tasks.stages.spec import Artifacts

UNKNOWN = "RUN_DIR"  # in place of a folder whose name the results of earlier stages decide


@dataclass(frozen=True)
class Launch:
    """The start of one stage: on this host, and by hand on others.

    environment: variables that the stage gets besides those of this process.
    """

    stage: str
    command: list[str]
    run_dir: str
    finished: bool
    environment: dict[str, str]
    elsewhere: dict[str, list[str]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yield comments and commands for a shell."""
        if self.finished:
            yield f"# {self.stage}: finished in {self.run_dir}, would not be started"
        elif self.run_dir == UNKNOWN:
            yield (
                f"# {self.stage}: {UNKNOWN} is the folder that what earlier stages make gives its"
                " name"
            )
        else:
            yield f"# {self.stage}"
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        yield shlex.join([*(["env", *settings] if settings else []), *self.command])
        for host, command in self.elsewhere.items():
            yield f"# {self.stage}, on {host}, once {self.run_dir}/spec.json is there"
            yield shlex.join([*(["env", *settings] if settings else []), *command])


def launches(
    recipe: Recipe,
    workspace: Workspace,
    brought: Artifacts | None = None,
    added: Callable[[Stage, Artifacts], Artifacts] = lambda stage, have: {},
) -> Iterator[Launch]:
    """Yield every stage of the recipe, in order. Raises BadInput as a run would at its start.

    brought: artifacts that no stage makes, as of RunContext. added: what a run adds before a stage.
    """
    check_paths(recipe)
    have = dict(brought or {})
    known = True  # until a stage has not been run: then nobody knows what later ones take
    for name, stage in STAGES.items():
        if not recipe.runs(name):
            continue
        if not known:
            yield _launch(recipe, _unknown(recipe, name), UNKNOWN, finished=False)
            continue
        before = have | added(stage, have)
        spec = spec_of(stage, recipe, before)
        result = read_result(workspace.run_dir(spec)) if spec else None
        if spec:
            folder = str(workspace.run_dir(spec))
            yield _launch(recipe, spec, folder, finished=result is not None)
        known = spec is None or result is not None
        if known:
            # after SFT the flow gives the splits of validate again
            have = (have if stage == SFT else before) | outputs_of(stage, recipe, result)


def _unknown(recipe: Recipe, name: str) -> StageSpec:
    trains = name in LEARNING
    return StageSpec(
        stage=name,
        seed=recipe.seed,
        config=StageConfig(ranks=recipe.distributed.world_size if trains else 1),
        inputs={},
        code="",
    )


def _launch(recipe: Recipe, spec: StageSpec, run_dir: str, *, finished: bool) -> Launch:
    rest = [spec.stage, f"{run_dir}/spec.json", run_dir]
    given = stage_process.environment(stage_process.ranks_here(spec, recipe.distributed))
    if recipe.distributed.hostfile and spec.ranks > 1:
        given["DS_ENV_FILE"] = f"{run_dir}/launch.env"
    others = launcher.commands_for_other_hosts(spec, recipe.distributed)
    return Launch(
        spec.stage,
        [*stage_process.command_of(spec, recipe.distributed), *rest],
        run_dir,
        finished,
        {name: value for name, value in sorted(given.items()) if os.environ.get(name) != value},
        {host: [*command, *rest] for host, command in others.items()},
    )
