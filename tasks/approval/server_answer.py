"""The answer of an account of MLflow's server: the run that waits for it, from any machine.

Request and answer are in the server's queue of approvals (tasks/registry/approval_queue.py). The
run's folder is not needed to answer.
"""

import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow

from rlhf_core.errors import BadInput
from tasks.approval import decisions
from tasks.approval.prefect_pause import PausedRun
from tasks.promotion.eligibility import is_own
from tasks.promotion.signed_approval import approval_queue
from tasks.records import events
from tasks.records.approval_record import ApprovalRecord, evidence_of
from tasks.registry import packaging
from tasks.run_context import RunContext
from tasks.tracking.account import Account
from tasks.tracking.pages import model_versions, registered_models

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from tasks.registry.approval_queue import ApprovalQueue

POLL_SECONDS = 3.0  # between questions to the servers, which hash a password each time
log = logging.getLogger("rlhf.approval")


# of the run that waits


def queue_of(context: RunContext) -> "ApprovalQueue | None":
    """Return the queue of approvals; None where the server has no accounts, or while it is away.

    The promotion looks again: without an answer from there it is refused. Raises BadInput where the
    server has accounts and no queue.
    """
    try:
        return approval_queue(context.tracker.client, context.recipe.registry.name)
    except BadInput:
        raise
    except Exception as error:
        context.tracker.is_behind(error)
        return None


def answer(
    context: RunContext, asked: ApprovalRecord, queue: "ApprovalQueue", text: str
) -> ApprovalRecord:
    """Return the answer of an account, and wait for it; expired where none comes in time.

    Prefect's page shows the paused run, and takes no answer: it does not know the accounts.
    """
    if decided := _answered(context, asked, queue):
        return decided
    paused = PausedRun(text, asked)
    events.emit(events.ApprovalAsked(asked.run, asked.until, paused.page, context.tracker.link()))
    while True:
        if decided := _answered(context, asked, queue):
            paused.end(decided)
            return decided
        if decisions.now() >= asked.until:
            paused.end(decisions.expired(asked))
            return decisions.expired(asked)
        if form := paused.answer():
            log.warning(
                "Prefect's page does not know whose account %r is, so the answer is not taken; an"
                " approver answers with: rlhf approve %s",
                form.name,
                asked.run,
            )
            paused = PausedRun(text, asked)
        context.tracker.tick()
        time.sleep(POLL_SECONDS)


def _answered(
    context: RunContext, asked: ApprovalRecord, queue: "ApprovalQueue"
) -> ApprovalRecord | None:
    try:
        found = queue.ask(asked)
    except Exception as error:
        context.tracker.is_behind(error)
        return None
    return found if found.state != "waiting" else None


# of the person who answers


def submit(
    client: "MlflowClient", account: Account, run: str, given: decisions.Answer
) -> ApprovalRecord:
    """Answer the request of a run as this account of the server; return what was decided.

    Raises BadInput for a run that asks nobody, other gate records than it has asked about, a server
    without a queue of approvals, an account that may not answer, and an answer that is there
    already.
    """
    decisions.check(given)
    version, asked = _request(client, run)
    queue = approval_queue(client, version.name.removesuffix("-policy"))
    assert queue is not None  # the account is the server's
    _require_evidence(version, asked)
    mine = asked.model_copy(update={"by": account.name})
    if is_own(mine, version.tags.get("registered_by", "")):
        raise BadInput(
            f"{asked.run} was registered by {account.name}, the account that answers; expected"
            " another one, or registry.approval.allow_self = true in its recipe."
        )
    before = queue.ask(asked)
    if before.state != "waiting":
        raise BadInput(
            f"{asked.run} is decided already: {before.sentence}. Your answer does not count."
        )
    return queue.answer(asked, account.name, approve=given.approve, comment=given.comment)


def _request(client: "MlflowClient", run: str) -> tuple["ModelVersion", ApprovalRecord]:
    """Return the version that a run asks about, with the request. Raises BadInput."""
    found: list[tuple[ModelVersion, ApprovalRecord]] = []
    for model in registered_models(client):
        if model.name.endswith("-policy"):
            found += [
                (version, ApprovalRecord.model_validate_json(version.tags["approval"]))
                for version in model_versions(client, f"name = '{model.name}'")
                if "approval" in version.tags
            ]
    found.sort(key=lambda item: item[1].asked_at)
    chosen = found[-1:] if run == "latest" else [item for item in found if item[1].run == run][-1:]
    if not chosen:
        waiting = [asked.run for _, asked in found if asked.state == "waiting"]
        raise BadInput(
            f"{run!r} names no run that asks for approval on MLflow's server; expected a run's name"
            f" or 'latest' (waiting for approval: {', '.join(waiting) or 'none'})."
        )
    return chosen[0]


def _require_evidence(version: "ModelVersion", asked: ApprovalRecord) -> None:
    """Raise BadInput unless the version's gate records are what the run asks about."""
    with tempfile.TemporaryDirectory() as folder:
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"{version.source}/{packaging.GATES}", dst_path=folder
        )
        records = packaging.read_decisions(Path(folder))
    if evidence_of(version.tags["digest"], records) != asked.evidence:
        raise BadInput(
            f"version {version.version} of {version.name} has other bytes or gate records than"
            f" {asked.run} asks about. Run its recipe again, which asks anew."
        )
