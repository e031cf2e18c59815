"""The services of the platform, one line each."""

from flows.platform.health import service_state
from flows.platform.services import KEEPER
from flows.platform.state import Platform


def service_lines(platform: Platform) -> list[str]:
    """Return one line per service: its state, address, process and log."""
    where = {
        "prefect": platform.prefect_url,
        "mlflow": platform.mlflow_url,
        "worker": f"pool {platform.pool}",
        "page": platform.page_url,
        KEEPER: "starts again what dies",
    }
    return [
        f"{name:8} {service_state(platform, service):10} {where[name]:28} process"
        f" {service.owner.pid:<8} {service.log}"
        for name, service in platform.services.items()
    ]
