"""The gate decisions of a pipeline run as `rlhf gates` shows them, read without MLflow."""

from rlhf_core.config.gate_rules import GateRule
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.evidence.item_metrics import base_metric, detector_of
from rlhf_core.gates.decide import Decision
from rlhf_core.stage_catalogue import EVALUATE
from tasks.records.run_record import Record, StageRecord, find_records, records
from tasks.records.workspace import Workspace


def run_names(workspace: Workspace) -> list[str]:
    """Return the names of the runs of this workspace, the latest first."""
    return [record["name"] for record in reversed(records(workspace))]


def find_run(workspace: Workspace, run: str) -> Record:
    """Return the run that `run` names (see run_record.find_records).

    Raises ConfigError, which names the known runs, for none or several.
    """
    found = find_records(workspace, run)
    if len(found) != 1:
        what = "no run" if not found else f"{len(found)} runs"
        names = ", ".join(run_names(workspace)) or "none yet"
        raise ConfigError(
            f"{run!r} names {what} in {workspace.home}; expected a name, the beginning of an id,"
            f" latest or latest~1 ({names})"
        )
    return found[0]


def _decided(record: Record) -> list[tuple[StageRecord, Decision]]:
    """Return every decision with the stage whose evidence it rests on."""
    found = [(stage, decision) for stage in record.stages for decision in stage.decisions]
    last = [stage for stage in record.stages if stage.limits][-1:]
    found += [(stage, one) for stage in last for one in stage.limits]
    evaluation = record.stage(EVALUATE.name)
    if record.contest and evaluation:
        found.append((evaluation, record.contest))
    return found


def rows(decisions: list[Decision]) -> list[dict]:
    """Return decisions as JSON values, with verdict, rule and quantity in words."""
    return [_row(decision) for decision in decisions]


def _row(decision: Decision) -> dict:
    words = {"verdict": decision.verdict, "rule": decision.rule, "quantity": decision.quantity}
    return decision.model_dump(mode="json") | words


def explain(record: Record, name: str) -> dict:
    """Return one decision with the paths of its evidence and the items that count most against it.

    name: 'gate' or 'stage.gate'. Raises ConfigError, which names the known gates.
    """
    stage, decision = _find_gate(record, name)
    result, spec = stage.result, stage.spec
    inputs = spec.inputs if spec else {}
    model = (
        (result.outputs.get("model") if result else None)
        or inputs.get("given")
        or inputs.get("policy")
    )
    places = {name: str(inputs[name].path) for name in decision.data_digests if name in inputs}
    named = result.files if result else {}
    files = {
        kind: str(stage.run_dir / named[name])
        for kind, name in _files(decision).items()
        if name in named
    }
    return {
        "decision": _row(decision),
        "run": record.name,
        "evidence": {
            "run_dir": str(stage.run_dir),
            "result": str(stage.run_dir / "result.json"),
            "items": files.get("items"),
            "figure": files.get("figure"),
            "model": str(model.path) if model else None,
            "data": places,
        },
        "worst": _worst(stage, decision),
    }


def _files(decision: Decision) -> dict[str, str]:
    """Return the names of a decision's files: its items and its detector's figure."""
    return {"items": "items", "figure": f"detector_{detector_of(base_metric(decision.metric))}"}


def _find_gate(record: Record, name: str) -> tuple[StageRecord, Decision]:
    known = {
        f"{decision.stage}.{decision.gate}": (stage, decision)
        for stage, decision in _decided(record)
    }
    found = [key for key in known if name in (key, key.partition(".")[2])]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise ConfigError(f"{name} is a gate of several stages; expected one of {', '.join(found)}")
    raise ConfigError(
        f"{record.name} has no gate {name!r}; expected one of"
        f" {', '.join(known) or 'none: no gate was decided'}"
    )


def _worst(stage: StageRecord, decision: Decision) -> dict:
    """Return {"columns", "data"}, or {"problem"} when there is no per-item evidence."""
    from rlhf_core.gates.worst_items import worst_items  # loads numpy and arrow

    if decision.is_limit:
        return {"problem": "a limit has no items: it is on what all stages together have taken"}
    if stage.result is None:
        return {"problem": f"{stage.run_dir} is gone, and the evidence with it"}
    words = decision.model_dump(include={"bound", "minus", "versus", "method"})
    rule = GateRule.model_construct(metric=base_metric(decision.metric), **words)
    try:
        return worst_items(rule, stage.result, stage.run_dir)
    except (ValueError, BadInput) as error:
        return {"problem": str(error)}
