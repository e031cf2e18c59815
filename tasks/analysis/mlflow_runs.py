"""Pipeline runs in MLflow, a server or the local store: find them and read their evidence."""

import contextlib
import difflib
import re
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rlhf_core.errors import ConfigError
from tasks.analysis.run_evidence import (
    STAGE_ORDER,
    Curve,
    RunEvidence,
    StageEvidence,
    benchmarks_in,
    items_in,
    packages,
    read_json,
    read_table,
)
from tasks.records.run_record import LATEST
from tasks.registry.packaging import local_folder, require_visible
from tasks.registry.versions import find_version
from tasks.tracking.client import KEY, brief, page
from tasks.tracking.curves import CURVES
from tasks.tracking.pages import PAGE, model_versions, pages, registered_models

Client = MlflowClient
PARENT = "mlflow.parentRunId"
PIPELINES = f"tags.`{KEY}` IS NOT NULL and tags.stage = 'pipeline'"
VERSION = re.compile(r"(?:models:/)?([\w.-]+)(?:/(\d+)|@([\w.-]+))")
LOGGED_MODEL = re.compile(r"(?:models:/)?m-[0-9a-f]{8,}")
RUN_ID = re.compile(r"[0-9a-f]{4,32}")
NAME = re.compile(r"[\w.-]+")
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
EXPECTED = (
    "expected a pipeline run's name (quickstart-1a2b3c4-1), an MLflow run id or the start of one,"
    " latest, latest~1, or a model version (quickstart-policy@champion, quickstart-policy/3)"
)


def resolve(client: MlflowClient, reference: str) -> Run:
    """Return the pipeline run that a reference names.

    Raises ConfigError, which names candidates, when it names none or several.
    """
    if match := LATEST.fullmatch(reference):
        return _latest(client, int(match[1] or 0))
    if LOGGED_MODEL.fullmatch(reference) or VERSION.fullmatch(reference):
        return _maker(client, reference)
    if not NAME.fullmatch(reference):
        raise ConfigError(f"{reference!r} is no reference to a run; {EXPECTED}.")
    found = search(client, f"attributes.run_name = '{reference}' and {PIPELINES}")
    if not found and RUN_ID.fullmatch(reference):
        found = _by_id(client, reference)
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{reference!r} means {len(found)} runs; give one of their ids:\n  {_listed(found)}"
        )
    raise ConfigError(
        f"there is no run {reference!r}; {EXPECTED}.\n  {_suggested(client, reference)}"
    )


def search(client: MlflowClient, condition: str, limit: int | None = None) -> list[Run]:
    """Return the matching runs of every experiment, the latest first; at most `limit`, or all."""
    every = pages(lambda token: client.search_experiments(page_token=token))
    experiments = [experiment.experiment_id for experiment in every]
    runs = pages(
        lambda token: client.search_runs(
            experiments,
            condition,
            max_results=min(limit or PAGE, PAGE),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
    )
    return list(islice(runs, limit))


def _latest(client: MlflowClient, back: int) -> Run:
    found = search(client, PIPELINES, limit=back + 1)
    if len(found) <= back:
        raise ConfigError(
            f"there is no run latest~{back}: MLflow holds {len(found) or 'no'} pipeline runs."
        )
    return found[back]


def _by_id(client: MlflowClient, prefix: str) -> list[Run]:
    """Return the pipeline runs whose id, or whose stage's id, begins with the prefix."""
    found = search(client, f"attributes.run_id LIKE '{prefix}%'")
    of_pipelines = [
        run for run in found if KEY in run.data.tags and run.data.tags["stage"] != "sweep"
    ]
    return [client.get_run(run_id) for run_id in sorted({pipeline_id(run) for run in of_pipelines})]


def pipeline_id(run: Run) -> str:
    """Return the id of the pipeline run that a run is, or that it is a stage of."""
    if run.data.tags.get("stage") == "pipeline":  # its parent, if any, is a sweep
        return run.info.run_id
    return run.data.tags.get(PARENT, run.info.run_id)


def version(client: MlflowClient, reference: str) -> ModelVersion | None:
    """Return the version that quickstart-policy@champion or models:/quickstart-policy/3 names.

    None for a reference of another form. Raises ConfigError, which names the versions there are,
    when there is no such version.
    """
    match = VERSION.fullmatch(reference)
    if match is None:
        return None
    name, number, alias = match.groups()
    found = find_version(client, name, number) if number else _by_alias(client, name, alias)
    if found is None:
        raise ConfigError(f"there is no model version {reference!r}; {_versions(client, name)}.")
    return found


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
        return None


def _versions(client: MlflowClient, name: str) -> str:
    models = {model.name: model for model in registered_models(client)}
    if name not in models:
        return f"registered models are {', '.join(sorted(models)) or 'none'}"
    numbers = sorted(int(item.version) for item in model_versions(client, f"name = '{name}'"))
    aliases = ", ".join(
        f"@{alias} (version {number})" for alias, number in sorted(models[name].aliases.items())
    )
    return (
        f"{name} has versions {', '.join(map(str, numbers)) or 'none'} and aliases"
        f" {aliases or 'none'}"
    )


def _maker(client: MlflowClient, reference: str) -> Run:
    """Return the pipeline run that made a model version or a logged model."""
    if found := version(client, reference):
        run_id = found.tags.get("pipeline_run_id") or found.run_id
    else:
        run_id = client.get_logged_model(reference.removeprefix("models:/")).source_run_id
    if not run_id:
        raise ConfigError(
            f"{reference!r} does not say which pipeline run made it (no tag pipeline_run_id)."
        )
    return client.get_run(pipeline_id(client.get_run(run_id)))


def _listed(runs: list[Run]) -> str:
    return "\n  ".join(f"{run.info.run_id}  {run.info.run_name}" for run in runs[:10])


def _suggested(client: MlflowClient, reference: str) -> str:
    runs = search(client, PIPELINES, limit=100)
    names = [run.info.run_name for run in runs]
    close = difflib.get_close_matches(reference, names, n=5, cutoff=0.5)
    if close:
        return f"Close to it: {', '.join(dict.fromkeys(close))}"
    return f"Latest runs: {', '.join(names[:5]) or 'none'}"


def read(client: MlflowClient, run: Run, *, full: bool = True) -> RunEvidence:
    """Return the evidence of a pipeline run.

    full = False leaves out items, samples and curves, which the lineage does not need.
    """
    tags, run_id = run.data.tags, run.info.run_id
    wanted = {"recipe.json", "promotion.json", "contest.json"} | (
        {"requirements"} if full else set()
    )
    with _files(client, run, wanted) as folder:
        recipe = read_json(folder / "recipe.json")
        promotion = read_json(folder / "promotion.json") or None
        contest = read_json(folder / "contest.json") or None
        pins = packages((folder / "requirements").glob("*.txt"))
    children = client.search_runs(
        [run.info.experiment_id], f"tags.`{PARENT}` = '{run_id}' and tags.stage LIKE '%'"
    )
    stages = {child.data.tags["stage"]: child for child in children}
    hardware = {
        key.partition(".")[2]: value
        for key, value in run.data.params.items()
        if key.startswith("hardware.")
    }
    return RunEvidence(
        name=run.info.run_name,
        status=run.info.status,
        recipe=recipe,
        run_id=run_id,
        link=page(client.tracking_uri, run.info.experiment_id, run_id),
        error=tags.get("status_reason"),
        commit=tags.get("git_commit", ""),
        dirty=tags.get("git_dirty") == "true",
        started=run.info.start_time,
        ended=run.info.end_time,
        hardware=hardware,
        packages=pins,
        promotion=promotion,
        contest=contest,
        approval=tags.get("approval", ""),
        stages={
            name: _stage(client, stages[name], full=full) for name in STAGE_ORDER if name in stages
        },
    )


def _stage(client: MlflowClient, run: Run, *, full: bool) -> StageEvidence:
    tags, stage = run.data.tags, run.data.tags["stage"]
    wanted = {"spec.json", "result.json", "gates.json"}
    wanted |= {"items.parquet", "samples.json"} if full else set()
    with _files(client, run, wanted) as folder:
        return StageEvidence(
            stage=stage,
            status=run.info.status,
            cached=tags.get("cached") == "true",
            verdict=tags.get("verdict", ""),
            error=tags.get("status_reason"),
            run_id=run.info.run_id,
            digest=tags.get("run_digest", ""),
            spec=read_json(folder / "spec.json"),
            result=read_json(folder / "result.json"),
            decisions=read_json(folder / "gates.json").get("decisions", []),
            curves=_curves(client, run) if full else {},
            costs=_costs(run),
            items=items_in(folder / "items.parquet"),
            benchmarks=benchmarks_in(folder / "items.parquet"),
            samples=read_table(folder / "samples.json"),
        )


def _curves(client: MlflowClient, run: Run) -> dict[str, Curve]:
    names = [name for name in CURVES.get(run.data.tags["stage"], ()) if name in run.data.metrics]
    return {name: _curve(client, run.info.run_id, name) for name in names}


def _curve(client: MlflowClient, run_id: str, name: str) -> Curve:
    points = sorted(client.get_metric_history(run_id, name), key=lambda point: point.timestamp)
    steps: dict[int, float] = {}
    for point in points:  # the final value, a mean, is logged later under the last step
        steps.setdefault(point.step, point.value)
    return sorted(steps.items())


def _costs(run: Run) -> dict[str, float]:
    prefix = f"cost/{run.data.tags['stage']}_"
    return {
        name.removeprefix(prefix): value
        for name, value in run.data.metrics.items()
        if name.startswith(prefix)
    }


def attach(client: MlflowClient, run_ids: list[str], file: Path, folder: str) -> str | None:
    """Log a file to each run. Return why that failed; None when it did not.

    It fails for readers without the right to write.
    """
    try:
        for run_id in run_ids:
            client.log_artifact(run_id, str(file), folder)
    except (MlflowException, OSError) as error:
        return brief(error)
    return None


@contextlib.contextmanager
def _files(client: MlflowClient, run: Run, wanted: set[str]) -> Iterator[Path]:
    """Yield a folder with those of the wanted artifacts that the run has.

    Raises BadInput for artifacts on another machine's disk.
    """
    run_id, place = run.info.run_id, local_folder(run.info.artifact_uri)
    if place is not None:  # of its experiment: a run that has just begun has no folder yet
        require_visible(place.parents[1], client.tracking_uri, f"run {run.info.run_name}")
    with tempfile.TemporaryDirectory() as folder:
        for item in client.list_artifacts(run_id):
            if item.path in wanted:
                client.download_artifacts(run_id, item.path, folder)
        yield Path(folder)
