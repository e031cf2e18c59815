"""Lineage as MLflow records it: the sources of a model, and the models that saw some data."""

from dataclasses import dataclass
from pathlib import Path

from rlhf_core.digest import digest_path
from rlhf_core.errors import ConfigError
from rlhf_core.patterns import is_there
from tasks.analysis import mlflow_runs
from tasks.analysis.lineage_graph import Graph, Maker, ancestors, build, descendants
from tasks.analysis.mlflow_runs import Client, Run
from tasks.analysis.run_evidence import RunEvidence
from tasks.tracking.client import page
from tasks.tracking.pages import registered_models

DATASET_DIGITS = 32  # of a digest, in MLflow's data sets
REFERENCE = (
    "a data digest (or its first 6 digits or more), a file, a model version"
    " (quickstart-policy@champion) or a run"
)


@dataclass(frozen=True)
class Lineage:
    """The lineage of one model (its ancestors) or of some data (its descendants)."""

    root: str
    graph: Graph
    saw: dict[str, str] | None = None  # of data: model digest -> 'trained' or 'measured'


def lineage(client: Client, reference: str) -> Lineage:
    """Return the lineage of the model or data that `reference` names (see REFERENCE).

    Raises ConfigError, which names candidates, when it names none.
    """
    if version := mlflow_runs.version(client, reference):
        run = mlflow_runs.read(client, mlflow_runs.resolve(client, reference), full=False)
        return _of_model(
            client,
            _graph(client, [run]),
            version.tags.get("digest") or run.model("policy"),
            reference,
        )
    is_here = is_there(Path(reference))
    digest = digest_path(Path(reference)) if is_here else reference
    if found := _of_data(client, digest):
        return found
    if is_here:
        raise ConfigError(
            f"no run in MLflow has read {reference} (digest {digest[:12]}); has its content changed"
            " since?"
        )
    run = mlflow_runs.read(client, mlflow_runs.resolve(client, reference), full=False)
    return _of_model(
        client,
        _graph(client, [run]),
        run.model("policy") or run.model("reward") or run.model("sft"),
        reference,
    )


def _graph(client: Client, runs: list[RunEvidence]) -> Graph:
    """Return the lineage of these runs; what a run reused has the run that made it."""
    reused = {stage.digest for run in runs for stage in run.stages.values() if stage.cached}
    makers = {digest: _maker(client, digest) for digest in reused}
    return build(runs, {digest: maker for digest, maker in makers.items() if maker})


def _maker(client: Client, digest: str) -> Maker | None:
    """Return the run that was the first to finish a stage of this spec; None if none is known."""
    finished = "tags.cached = 'false' and attributes.status = 'FINISHED'"
    stages = mlflow_runs.search(client, f"tags.run_digest = '{digest}' and {finished}")
    if not stages:
        return None
    run = client.get_run(mlflow_runs.pipeline_id(stages[-1]))
    return run.info.run_name, page(client.tracking_uri, run.info.experiment_id, run.info.run_id)


def _of_model(client: Client, graph: Graph, digest: str | None, reference: str) -> Lineage:
    if digest is None or digest not in graph.nodes:
        raise ConfigError(
            f"the run behind {reference!r} records no such model; expected {REFERENCE}."
        )
    part = ancestors(graph, digest)
    _add_versions(client, part)
    return Lineage(digest, part)


def _of_data(client: Client, digest: str) -> Lineage | None:
    """Return every model that saw the data with this digest, or the lineage of that model.

    None when neither data nor a model has the digest.
    """
    if not 6 <= len(digest) <= 64 or not set(digest) <= set("0123456789abcdef"):
        return None
    users = _users(client, digest)
    graph = _graph(client, [mlflow_runs.read(client, run, full=False) for run in users])
    matching = sorted(node for node in graph.nodes if node.startswith(digest))
    if not matching:
        return None
    if len(matching) > 1:
        raise ConfigError(
            f"{digest!r} is the start of several digests: "
            + ", ".join(name[:16] for name in matching)
        )
    if graph.nodes[matching[0]].kind == "model":
        return _of_model(client, graph, matching[0], digest)
    part, saw = descendants(graph, matching[0])
    _add_versions(client, part)
    return Lineage(matching[0], part, saw)


def _users(client: Client, digest: str) -> list[Run]:
    """Return the pipeline runs with a stage that read this data, and those with this model."""
    read = f"dataset.digest LIKE '{digest[:DATASET_DIGITS]}%' and tags.stage != 'pipeline'"
    stages = mlflow_runs.search(client, read)
    parents = {
        run.data.tags[mlflow_runs.PARENT] for run in stages if mlflow_runs.PARENT in run.data.tags
    }
    versions = client.search_model_versions(f"tags.digest LIKE '{digest}%'")
    parents |= {
        version.tags["pipeline_run_id"] for version in versions if "pipeline_run_id" in version.tags
    }
    return sorted(
        (client.get_run(run_id) for run_id in parents), key=lambda run: run.info.start_time
    )


def _add_versions(client: Client, graph: Graph) -> None:
    """Add to each model the registered versions of its bytes, with their aliases."""
    aliases: dict[tuple[str, str], list[str]] = {}
    for model in registered_models(client):
        for alias, number in sorted(model.aliases.items()):
            aliases.setdefault((model.name, str(number)), []).append(f"@{alias}")
    for node in graph.nodes.values():
        if node.kind == "model":
            for found in client.search_model_versions(f"tags.digest = '{node.digest}'"):
                if "pipeline_run_id" not in found.tags:
                    continue  # an entry of the ledger, which has the digest as a tag too
                number = str(found.version)
                node.versions.append(
                    " ".join([found.name, number, *aliases.get((found.name, number), [])])
                )


def as_json(lineage: Lineage) -> dict:
    """Return the lineage as the JSON values that `rlhf lineage --json` prints."""
    return {"root": lineage.root, "saw": lineage.saw} | lineage.graph.as_json()
