"""Events in Prefect, for automations and triggers: a model was promoted, data have changed. Nothing
without a server.
"""

import logging
import os

from tasks.tracking.client import brief

PROMOTED = "rlhf.promoted"
DATA_CHANGED = "rlhf.data-changed"
log = logging.getLogger("rlhf.announce")


def model_resource(model: str) -> str:
    """The resource of events about a registered model, '<registry name>-policy' or '<registry
    name>-reward'.
    """
    return f"rlhf.model.{model}"


def data_resource(deployment: str) -> str:
    """The resource of events about the data that a deployment watches."""
    return f"rlhf.data.{deployment}"


def publish(event: str, resource: str, payload: dict[str, str]) -> None:
    """Tell Prefect's server, if one is configured; that it could not be told is logged and stops
    nothing.
    """
    if not os.environ.get("PREFECT_API_URL"):
        return
    from prefect.events import emit_event  # `rlhf promote` needs nothing else of Prefect

    logging.getLogger("EventsWorker").setLevel(
        logging.ERROR
    )  # as the program ends it counts what it has still to send
    try:
        emit_event(
            event,
            {"prefect.resource.id": resource, "prefect.resource.name": resource},
            payload=payload,
        )
    except Exception as error:
        log.warning("Prefect was not told of %s (%s)", event, brief(error))
