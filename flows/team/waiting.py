"""Find what waits for a person, and for whom."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.api.champions import registry_names
from flows.display.status import WAITING, run_state
from flows.platform.state import Platform
from flows.team.content import WaitingItem
from rlhf_core.config.registry import CANDIDATES
from rlhf_core.errors import RLHFError
from tasks.records.run_record import Record, records
from tasks.records.workspace import UI_URL, Workspace
from tasks.tracking.address import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

ANYBODY = "anybody with a shell on this machine"


def approvals(workspace: Workspace, platform: Platform) -> Iterator[WaitingItem]:
    """Yield the runs that wait for approval, the oldest first."""
    for values in records(workspace):
        if values["status"] != "RUNNING" or not values.get("approval"):
            continue
        record = Record.model_validate(values)
        if record.approval is None or run_state(workspace, record) != WAITING:
            continue
        yield WaitingItem(
            what=f"{record.name}: may its policy be promoted?",
            whom=_approver(record, platform),
            do=f"rlhf approve {record.name} [--reject --comment WHY]",
            since=record.approval.asked_at,
            until=record.approval.until,
        )


def _approver(record: Record, platform: Platform) -> str:
    """Return who may answer: the platform's own MLflow has no accounts, another one may."""
    uri = record.tracking_uri
    if not uri.startswith("http") or uri.rstrip("/") in (platform.mlflow_url, UI_URL):
        return ANYBODY
    return f"an approver, where MLflow at {redacted(uri)} has accounts; else {ANYBODY}"


def unsent(workspace: Workspace) -> Iterator[WaitingItem]:
    """Yield one item for ended runs that MLflow does not have in full."""
    ended = [v for v in records(workspace) if not v.get("closed") and v["status"] != "RUNNING"]
    if ended:
        count = "1 run is" if len(ended) == 1 else f"{len(ended)} runs are"
        yield WaitingItem(
            what=f"{count} not in MLflow in full: {', '.join(v['name'] for v in ended[-3:])}",
            whom="whoever runs the platform",
            do="rlhf sync",
            since=datetime.fromtimestamp(ended[0]["started"] / 1000, UTC),
        )


def proposals(client: "MlflowClient") -> Iterator[WaitingItem]:
    """Yield the candidates that wait for a promoter, one per registry name."""
    from tasks.promotion.ledger import Ledger
    from tasks.promotion.reigns import waiting_proposal
    from tasks.tracking.pages import registered_models

    known = {model.name for model in registered_models(client)}
    ledgers = [name for name in sorted(known) if name.endswith(f"{CANDIDATES}-ledger")]
    for name in (ledger.removesuffix(f"{CANDIDATES}-ledger") for ledger in ledgers):
        own = Ledger(client, name).entries() if name in registry_names(client) else []
        if entry := waiting_proposal(Ledger(client, f"{name}{CANDIDATES}").entries(), own):
            yield WaitingItem(
                what=f"version {entry.version} of {entry.model} has passed all checks",
                whom=f"a promoter of {name}",
                do=f"rlhf promote {name}{CANDIDATES} {entry.version}",
                since=entry.ended or entry.time,
            )


def labels(workspace: Workspace) -> Iterator[WaitingItem]:
    """Yield the people whose votes an open labelling campaign waits for.

    A campaign that cannot be read is an item of its own.
    """
    from tasks.labels.campaign import CampaignFolder
    from tasks.labels.progress import status

    for file in sorted(workspace.labels.glob("*/campaign.json")):
        folder = CampaignFolder(workspace, file.parent.name)
        if folder.closed():
            continue
        command = f"rlhf label status {folder.name}"
        try:
            found = status(folder, workspace)
        except RLHFError as error:
            yield WaitingItem(f"campaign {folder.name}: {error}", "whoever opened it", command)
            continue
        for person, states in found.states.items():
            if count := states.get("pending", 0):
                pairs = "1 pair" if count == 1 else f"{count} pairs"
                what = f"campaign {folder.name}: {pairs} to compare"
                yield WaitingItem(what, person, command, href=found.pages.get(person, ""))
        if not any(states.get("pending") for states in found.states.values()):
            what = f"campaign {folder.name}: every pair is answered"
            yield WaitingItem(what, "whoever opened it", f"rlhf label close {folder.name}")


def given_up(platform: Platform) -> Iterator[WaitingItem]:
    """Yield the services that stay down until somebody starts them."""
    for name, trouble in platform.troubles.items():
        if trouble.given_up:
            yield WaitingItem(
                what=f"{name} has died {trouble.deaths} times and stays down",
                whom="whoever runs the platform",
                do="rlhf up",
                since=trouble.last,
            )
