"""Events in Prefect, for automations and triggers: a model was promoted, data have changed.

Without a server there are none.
"""

import logging
import os

from tasks.tracking.client import brief

PROMOTED = "rlhf.promoted"
DATA_CHANGED = "rlhf.data-changed"
log = logging.getLogger("rlhf.announce")


def model_resource(model: str) -> str:
    """Return the resource of events about a registered model, e.g. 'quickstart-policy'."""
    return f"rlhf.model.{model}"


def data_resource(deployment: str) -> str:
    """Return the resource of events about the data that a deployment watches."""
    return f"rlhf.data.{deployment}"


def publish(event: str, resource: str, payload: dict[str, str]) -> None:
    """Send an event to Prefect's server, if one is configured.

    A failure is logged and stops nothing.
    """
    if not os.environ.get("PREFECT_API_URL"):
        return
    from prefect.events import emit_event  # `rlhf promote` needs nothing else of Prefect

    # as the program ends, it warns of the number of events still to send
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)
    try:
        emit_event(
            event,
            {"prefect.resource.id": resource, "prefect.resource.name": resource},
            payload=payload,
        )
    except Exception as error:
        log.warning("Prefect was not told of %s (%s)", event, brief(error))
