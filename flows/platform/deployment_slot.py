"""Let a deployed run go on when it has lost its deployment's slot.

Prefect's engine holds that slot as a lease and ends the run when a renewal is refused
(https://github.com/PrefectHQ/prefect/issues/18802). The lease is lost when the server is away for
longer than its 300 s, and when the server marks the run as crashed because no heartbeat came for
90 s. A run of hours would then end within minutes of a short outage. Its own slots, of model and
devices (tasks/execution/concurrency.py), keep other runs away meanwhile.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from uuid import UUID

from prefect import flow_engine

_MAINTAINS = "maintain_concurrency_lease"  # the engine's function; a version without it has another


def outlast_lost_slot() -> None:
    """Have Prefect's engine warn, instead of ending the run, when the slot is lost."""
    maintains: Callable[..., AbstractContextManager[None]] | None = getattr(
        flow_engine, _MAINTAINS, None
    )
    if maintains is None:
        return

    def warns(
        lease_id: UUID, lease_duration: float, *, raise_on_lease_renewal_failure: bool = False
    ) -> AbstractContextManager[None]:
        del raise_on_lease_renewal_failure
        return maintains(lease_id, lease_duration, raise_on_lease_renewal_failure=False)

    setattr(flow_engine, _MAINTAINS, warns)
