"""Events in Prefect, for automations and triggers: a model was promoted, data have changed.

Without a server there are none.
"""

import logging

from tasks.tracking.client import brief

PROMOTED = "rlhf.promoted"
DATA_CHANGED = "rlhf.data-changed"
LIVE = "rlhf.live"  # other versions of a live model answer, or a server has ended
log = logging.getLogger("rlhf.announce")


def model_resource(model: str) -> str:
    """Return the resource of events about a registered model, e.g. 'quickstart-policy'."""
    return f"rlhf.model.{model}"


def data_resource(deployment: str) -> str:
    """Return the resource of events about the data that a deployment watches."""
    return f"rlhf.data.{deployment}"


def publish(event: str, resource: str, payload: dict[str, str]) -> None:
    """Send an event to Prefect's server, if its settings name one.

    They are the environment, .env, prefect.toml and profiles. A failure is logged and stops
    nothing.
    """
    from tasks.execution.prefect_server import lasting_server  # imports Prefect's settings

    if not lasting_server():
        return
    from prefect.events import emit_event

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
