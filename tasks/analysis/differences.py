"""The differences between pipeline runs in configuration, data, models, code and environment."""

from collections.abc import Callable
from dataclasses import dataclass

from rlhf_core.data.splits import SPLITS, is_source
from tasks.analysis.run_evidence import RunEvidence, config_of

SHOWN = 12  # digits of a digest
MODELS = ("base", "sft", "reward", "policy", "champion")


@dataclass(frozen=True)
class Difference:
    """One key whose values are not the same in every run; None: the run has no value."""

    key: str
    values: list[str | None]


def differences(runs: list[RunEvidence]) -> dict[str, list[Difference]]:
    """Return the differences by group.

    A group without an entry is the same in all runs, as far as it was recorded.
    """
    groups = {
        "config": config_of,
        "data": _data,
        "models": _models,
        "code": _code,
        "environment": _environment,
    }
    return {name: _differing(runs, values) for name, values in groups.items()}


def _differing(
    runs: list[RunEvidence], values: Callable[[RunEvidence], dict[str, str]]
) -> list[Difference]:
    tables = [values(run) for run in runs]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [Difference(key, [table.get(key) for table in tables]) for key in keys]
    return [row for row in rows if len(set(row.values)) > 1]


def _data(run: RunEvidence) -> dict[str, str]:
    """Return the digest of each source and split, with its number of rows where it was counted."""
    metrics = run.metrics
    found: dict[str, str] = {}
    for stage in run.stages.values():
        inputs = stage.inputs
        if stage.stage == "validate":
            found |= {f"source {name}": inputs[name] for name in inputs if is_source(name)}
            inputs = {
                name: item["digest"] for name, item in stage.result.get("outputs", {}).items()
            }
        found |= {name: inputs[name] for name in SPLITS if name in inputs}
    rows = {
        name: f" ({metrics[f'data/{name}'].value:,.0f} rows)"
        for name in SPLITS
        if f"data/{name}" in metrics
    }
    return {name: digest[:SHOWN] + rows.get(name, "") for name, digest in found.items()}


def _models(run: RunEvidence) -> dict[str, str]:
    return {name: digest[:SHOWN] for name in MODELS if (digest := run.model(name))}


def _code(run: RunEvidence) -> dict[str, str]:
    """Return the commit, uncommitted changes, and the digest of the core's source by stage."""
    values = {"commit": run.commit, "uncommitted changes": "yes" if run.dirty else "no"}
    digests = {
        stage.stage: stage.spec["code"][:SHOWN]
        for stage in run.stages.values()
        if stage.spec.get("code")
    }
    if len(set(digests.values())) == 1:
        return values | {"rlhf_core": next(iter(digests.values()))}
    return values | {f"rlhf_core in {stage}": digest for stage, digest in digests.items()}


def _environment(run: RunEvidence) -> dict[str, str]:
    """Return hardware, the versions each stage recorded, and the pins of the requirement files."""
    seen: dict[str, list[str]] = {}
    for stage in run.stages.values():
        for name, version in stage.result.get("environment", {}).items():
            seen.setdefault(name, []).append(version)
    versions = {name: " and ".join(dict.fromkeys(values)) for name, values in seen.items()}
    return (
        {f"machine: {key}": value for key, value in run.hardware.items()} | versions | run.packages
    )
