"""A flow run paused in Prefect with a form on its page.

Prefect's own pause_flow_run ends the run at the first request that its server does not answer, and
looks at nothing but Prefect. Here a run may wait for days, and a file or the clock may end the wait
as well.
"""

import logging
import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client, runtime
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import SetStateStatus
from prefect.input import RunInput, keyset_from_paused_state, read_flow_run_input
from prefect.states import Paused
from prefect.utilities.urls import url_for
from pydantic import ConfigDict, Field

from rlhf_core.errors import GateRefused, RLHFError, StageFailed
from tasks.approval.decisions import COMMENT_LENGTH, NAME_LENGTH
from tasks.execution.prefect_server import lasting_server
from tasks.records.approval_record import ApprovalRecord

# Prefect's own timeout comes later, so that the refusal is recorded here first
MARGIN = timedelta(minutes=10)
log = logging.getLogger("rlhf.approval")


class Form(RunInput):
    """The form on Prefect's page; its server accepts no rejection without a reason."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"approve": {"const": False}}},
            "then": {"required": ["comment"], "properties": {"comment": {"minLength": 1}}},
        }
    )
    approve: bool = Field(
        title="Approve", description="On: the policy may be promoted. Off: it is rejected."
    )
    name: str = Field(title="Your name", min_length=1, max_length=NAME_LENGTH)
    comment: str = Field(
        "", title="Comment", description="Reason; required to reject", max_length=COMMENT_LENGTH
    )


class PausedRun:
    """The present flow run, paused until somebody fills in the form or `end` is called."""

    def __init__(self, text: str, asked: ApprovalRecord):
        self.id = UUID(runtime.flow_run.id)
        state: State[Any] = Paused(
            pause_expiration_time=asked.until + MARGIN, pause_key=secrets.token_hex(4)
        )
        self.keys = keyset_from_paused_state(state)
        state.state_details.run_input_keyset = {str(key): name for key, name in self.keys.items()}
        self._unreachable = False
        with get_client(sync_client=True) as client:
            # the form first: whoever sees the pause finds it
            Form.with_initial_data(description=text).save(self.keys, self.id)
            reply = client.set_flow_run_state(self.id, state)
        if reply.status != SetStateStatus.ACCEPT:
            raise StageFailed(
                f"Prefect does not let this run wait for approval: {reply.details}. Run the recipe"
                " again."
            )

    @property
    def page(self) -> str | None:
        """The run's page on Prefect's server, None without one (`rlhf ui` shows it then)."""
        return url_for("flow-run", obj_id=self.id) if lasting_server() else None

    def answer(self) -> Form | None:
        """Return the form as somebody filled it in.

        It is None while nobody has, or while the server does not answer. Raises GateRefused when
        the run was resumed without an answer, RLHFError when the run was ended in Prefect.
        """
        values: Any = None  # the type of Prefect's function covers its asynchronous form too
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(self.id).state
            assert state is not None  # this run has begun
            if not state.is_paused():
                values = read_flow_run_input(self.keys["response"], flow_run_id=self.id)
        except httpx.HTTPError as error:
            self._missed(error)
            return None
        self._unreachable = False
        if values:
            return Form(**values)
        if state.is_paused():
            return None
        if state.is_running():
            raise GateRefused(
                "not approved: the run was resumed in Prefect without an answer; run the recipe"
                " again"
            )
        raise RLHFError(
            f"the run was ended in Prefect ({state.name}) while it waited for approval; run the"
            " recipe again."
        )

    def end(self, decided: ApprovalRecord) -> bool | None:
        """Let the flow run go on; return True if it did.

        False: it does not wait any more (see `answer`). None: the server did not reply.
        """
        form = {
            "approve": decided.state == "approved",
            "name": decided.by or "timeout",
            "comment": decided.comment,
        }
        try:
            with get_client(sync_client=True) as client:
                reply = client.resume_flow_run(self.id, run_input=form)
            return reply.status == SetStateStatus.ACCEPT
        except httpx.HTTPError as error:
            self._missed(error)
            return None

    def _missed(self, error: httpx.HTTPError) -> None:
        if not self._unreachable:
            log.warning(
                "Prefect's server does not answer (%s); the run goes on waiting for approval.",
                error,
            )
        self._unreachable = True
