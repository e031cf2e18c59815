"""The champions of every registry name, since when, and by which evidence."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from flows.api.session import begin, tracking_client

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tasks.promotion.reigns import Reign


@dataclass(frozen=True)
class ReigningChampion:
    """A champion by the ledger. model: the registered model; kind: policy or reward.

    since: UTC. by: who promoted it, action: promote or rollback. evidence: sentences: the contest,
    the approval, reasons. entry: its number in the ledger of `name`. link: its page in MLflow.
    problem: where the alias `champion` is, if that is not where the ledger says; else ''.
    """

    name: str
    kind: str
    model: str
    version: str
    digest: str
    since: datetime
    by: str
    action: str
    evidence: tuple[str, ...]
    entry: int
    link: str
    problem: str = ""


def champions() -> list[ReigningChampion]:
    """Return the champions of every registry name, by name, the policy first.

    Nothing is written, so an attempt that was killed is not completed: `rlhf history NAME` does
    that. Raises RLHFError when MLflow does not answer.
    """
    workspace, client = begin(), tracking_client()
    from tasks.promotion.aliases import RegistryAliases, champion_history, drift
    from tasks.promotion.ledger import Ledger
    from tasks.promotion.reigns import reigns

    found = []
    for name in registry_names(client):
        entries = Ledger(client, name).entries()
        states = champion_history(entries)
        aliases = RegistryAliases(client, workspace, name).aliases() if states else {}
        problem = (drift(states[-1], aliases) if states else None) or ""
        uri = workspace.tracking_uri
        found += [_champion(name, one, uri, problem) for one in reigns(entries)]
    return found


def registry_names(client: "MlflowClient") -> list[str]:
    """Return the registry names that have a ledger, without those of candidates."""
    from rlhf_core.config.registry import CANDIDATES
    from tasks.tracking.pages import registered_models

    ledgers = [model.name for model in registered_models(client) if model.name.endswith("-ledger")]
    names = sorted(name.removesuffix("-ledger") for name in ledgers)
    return [name for name in names if not name.endswith(CANDIDATES)]


def _champion(name: str, reign: "Reign", uri: str, problem: str) -> ReigningChampion:
    from tasks.promotion.reigns import evidence_for
    from tasks.tracking.client import page_base

    entry, model = reign.entry, f"{name}-{reign.kind}"
    return ReigningChampion(
        name=name,
        kind=reign.kind,
        model=model,
        version=reign.champion.version,
        digest=reign.champion.digest,
        since=entry.ended or entry.time,
        by=entry.by,
        action=entry.action,
        evidence=tuple(evidence_for(entry)),
        entry=entry.number,
        link=f"{page_base(uri)}/#/models/{model}/versions/{reign.champion.version}",
        problem=problem if f"{reign.kind}@" in problem else "",
    )
