"""Start runs, open finished ones, and read what they found."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from os import PathLike
from typing import TYPE_CHECKING

from flows.api.arguments import path_text, require_text
from flows.api.run_view import Run
from flows.api.session import begin, tracking_client
from flows.api.setting_texts import SettingValues, setting_texts
from rlhf_core.errors import ConfigError
from rlhf_core.stage_catalogue import steps

if TYPE_CHECKING:
    from flows.display.outcome import RunOutcome

StepSpan = tuple[str | None, str | None]  # the first and the last step that may run


def run(
    recipe: str | PathLike[str],
    settings: SettingValues = None,
    *,
    from_stage: str | None = None,
    until: str | None = None,
    check: bool = True,
) -> Run:
    """Run the stages of a recipe, as `rlhf run` does.

    Finished stages are skipped, an interrupted one is resumed.

    recipe: a name (see `rlhf recipes`) or the path of a .toml file. settings: recipe keys with
    their values, e.g. {"ppo.beta": 0.1}. from_stage, until: the first and the last step that may
    run.

    Progress is shown on standard error. Raises the error that the run ended with: BadInput,
    GateRefused, StageFailed ... With check=False a run that has begun is returned all the same,
    with its `state` and `error`. Call it in the main thread, which takes Ctrl-C.
    """
    span = (from_stage, until)
    outcome = outcome_of(path_text("the recipe", recipe), setting_texts(settings), span)
    if outcome.error is not None and (check or outcome.record is None):
        raise outcome.error
    assert outcome.record is not None, "a run without an error has a record"
    return Run(outcome.record)


def outcome_of(recipe: str, settings: list[str], span: StepSpan) -> "RunOutcome":
    """Run the steps of `span` with the display on standard error, and return how the run ended.

    Raises BadInput for what is wrong before anything runs.
    """
    require_span(span)
    from flows.platform import ephemeral_server
    from rlhf_core.config import load_recipe
    from tasks.tracking.address import require_address

    load_recipe(recipe, settings)
    workspace = begin(writing=True)
    require_address(workspace.tracking_uri)
    ephemeral_server.start_early()
    from flows.display.run import run_recipe

    return run_recipe(recipe, settings, span)


def require_span(span: StepSpan) -> None:
    """Raise ConfigError for a step that there is not, and for steps in the wrong order."""
    order = steps()
    for name in span:
        if name is not None and name not in order:
            raise ConfigError(f"there is no step {name!r}; expected one of {', '.join(order)}.")
    first, last = span
    if first and last and order.index(first) > order.index(last):
        raise ConfigError(f"--from {first} comes after --until {last}: nothing would run.")


def runs(pattern: str = "*", limit: int | None = None) -> Sequence[Run]:
    """Return the runs of this workspace, the latest first, as `rlhf status` lists them.

    pattern: of their names, e.g. "quickstart-*". limit: at most this many.
    """
    require_text("the pattern", pattern)
    workspace = begin()
    from tasks.records.run_record import Record, records

    known = [values for values in records(workspace) if fnmatchcase(values["name"], pattern)]
    chosen = known[::-1] if limit is None else known[::-1][:limit]
    return [Run(Record.model_validate(values)) for values in chosen]


def open_run(name: str = "latest") -> Run:
    """Return a run of this workspace, or else of the MLflow server.

    name: the run's name, the beginning of its id, latest, latest~1; of MLflow also a model version,
    e.g. "quickstart-policy@champion". Raises ConfigError, which names the known runs, for none or
    several.
    """
    require_text("the run's name", name)
    workspace = begin()
    from tasks.analysis.gate_report import find_run
    from tasks.records.run_record import find_records

    if find_records(workspace, name):
        return Run(find_run(workspace, name))
    client = tracking_client()
    from tasks.analysis import mlflow_runs

    return Run(mlflow_runs.read(client, mlflow_runs.resolve(client, name)))
