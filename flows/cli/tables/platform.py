"""The services of the platform, one line each."""

from flows.platform.pages import answers
from flows.platform.state import Platform, Service


def service_lines(platform: Platform) -> list[str]:
    """Return one line per service: its state, address, process and log."""
    where = {
        "prefect": platform.prefect_url,
        "mlflow": platform.mlflow_url,
        "worker": f"pool {platform.pool}",
    }
    return [
        f"{name:8} {_state(service):10} {where[name]:28} process {service.owner.pid:<8}"
        f" {service.log}"
        for name, service in platform.services.items()
    ]


def _state(service: Service) -> str:
    if not service.runs:
        return "has died: rlhf up starts it"
    return "well" if answers(service.health) else "does not answer"
