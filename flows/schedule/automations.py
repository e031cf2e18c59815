"""Prefect automations: notify about runs and promotions, and mark runs as crashed."""

import json
from datetime import timedelta
from uuid import UUID

from prefect import get_client
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, CallWebhook, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from pydantic import SecretStr

from flows.platform.services import HEARTBEAT_SECONDS
from flows.schedule.notify_target import is_address, require_form
from flows.schedule.server import require_server
from rlhf_core.errors import BadInput
from tasks.promotion import announce

MISSED_HEARTBEATS = 3
RUN = {"prefect.resource.id": "prefect.flow-run.*"}
OURS = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.rlhf"}
ENDED = {
    f"prefect.flow-run.{name}"
    for name in ("Completed", "Failed", "Refused", "Cancelled", "Crashed", "AwaitingRetry")
}
OCCASIONS = {
    "refused by a gate": "prefect.flow-run.Refused",
    "failed": "prefect.flow-run.Failed",
    "crashed": "prefect.flow-run.Crashed",
    "waiting for approval": "prefect.flow-run.Paused",
    "promoted": announce.PROMOTED,
    "served live by other versions": announce.LIVE,
}
ABOUT_MODELS = (announce.PROMOTED, announce.LIVE)
CRASHED = "rlhf: crashed when heartbeats stop"
ABOUT_RUN = (
    "{{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message }} {{"
    " flow_run|ui_url }}"
)
ABOUT_MODEL = "{{ event.payload['reason'] }}"
BLOCK = "rlhf-notify"


def notify(target: str) -> list[str]:
    """Have Prefect notify `target` of every occasion, and return the automations' names.

    target: a URL that takes POST requests with JSON, or 'BLOCK-TYPE/NAME', a notification block of
    Prefect's (Slack, Teams, mail, PagerDuty ...). Replaces what an earlier call set up. Raises
    what require_target raises.
    """
    require_server()
    require_target(target)
    is_hook = is_address(target)
    block = _webhook(target) if is_hook else _block(target)
    for occasion, event in OCCASIONS.items():
        about_model = event in ABOUT_MODELS
        match = {"prefect.resource.id": "rlhf.model.*"} if about_model else RUN
        trigger = EventTrigger(
            expect={event},
            match=match,
            match_related={} if about_model else OURS,
            posture=Posture.Reactive,
        )
        _replace(
            AutomationCore(
                name=_name(occasion),
                trigger=trigger,
                actions=[_action(block, is_hook, occasion, about_model)],
            )
        )
    return [_name(occasion) for occasion in OCCASIONS]


def require_target(target: str) -> None:
    """Raise BadInput for an address that takes no POST request, or for a block that is missing."""
    require_form(target)
    if not is_address(target):
        _block(target)


def detect_crashes() -> None:
    """Have Prefect mark a run as crashed when its heartbeats stop.

    `rlhf reap` marks it at once.
    """
    beat = "prefect.flow-run.heartbeat"
    trigger = EventTrigger(
        after={beat},
        expect={beat, *ENDED},
        match=RUN,
        match_related=OURS,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=MISSED_HEARTBEATS * HEARTBEAT_SECONDS),
    )
    message = (
        f"No heartbeat of this run has arrived for {MISSED_HEARTBEATS * HEARTBEAT_SECONDS} s: its"
        " process was killed (run it again and it resumes), or Prefect's server was away (it goes"
        " on, and ends in another state); rlhf status tells which."
    )
    action = ChangeFlowRunState(state=StateType.CRASHED, message=message)
    with get_client(sync_client=True) as client:
        # a new automation would not have seen the heartbeats of the runs that go on
        if client.read_automations_by_name(CRASHED):
            return
    _replace(AutomationCore(name=CRASHED, trigger=trigger, actions=[action]))


def _name(occasion: str) -> str:
    return f"rlhf: notify when {occasion}"


def _action(block: UUID, is_hook: bool, occasion: str, about_model: bool) -> ActionTypes:
    text = ABOUT_MODEL if about_model else ABOUT_RUN
    if is_hook:
        subject = "{{ event.payload['model'] }}" if about_model else "{{ flow_run.name }}"
        payload = json.dumps({"occasion": occasion, "subject": subject, "text": text})
        return CallWebhook(block_document_id=block, payload=payload)
    return SendNotification(block_document_id=block, subject=f"RLHF: {occasion}", body=text)


def _webhook(url: str) -> UUID:
    """Create the block that keeps the URL; Prefect encrypts it, because it may hold a token."""
    saved = Webhook(method="POST", url=SecretStr(url)).save(BLOCK, overwrite=True)
    assert isinstance(saved, UUID)  # a coroutine only inside an event loop
    return saved


def _block(name: str) -> UUID:
    kind, _, document = name.partition("/")
    with get_client(sync_client=True) as client:
        found = [item for item in client.read_block_documents() if item.name == document]
    matching = [item.id for item in found if item.block_type and item.block_type.slug == kind]
    if not matching:
        raise BadInput(
            f"--notify: there is no Prefect block {name!r}; make one on Prefect's page, or give an"
            " http address."
        )
    return matching[0]


def _replace(automation: AutomationCore) -> None:
    with get_client(sync_client=True) as client:
        for old in client.read_automations_by_name(automation.name):
            client.delete_automation(old.id)
        client.create_automation(automation)
