"""Settings that Prefect and MLflow read when they are imported."""

import os

from flows import environment
from tasks.execution import stage_python
from tasks.records.workspace import home_folder

QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # Prefect's page keeps the log
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}


def apply() -> None:
    """Set what every use of this package needs; what the environment says already stays.

    PREFECT_CLIENT_MAX_RETRIES: see flows/platform/services.py.
    """
    workspace = home_folder()
    _set_defaults(
        {
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
            "PREFECT_CLIENT_MAX_RETRIES": "8",
            "PREFECT_HOME": str(workspace / "prefect"),
        }
    )
    stage_python.keep_absolute()
    environment.bypass_proxies()
    environment.provide_home(workspace / "home")
    environment.drop_unusable_caches()


def debugging() -> bool:
    """Return True when tracebacks and the libraries' logs are wanted (RLHF_DEBUG, --debug)."""
    return os.environ.get("RLHF_DEBUG", "") not in ("", "0")


def quiet_libraries() -> None:
    """Keep the logs of Prefect and MLflow off the terminal, except while debugging."""
    if not debugging():
        _set_defaults(QUIET)


def _set_defaults(values: dict[str, str]) -> None:
    for name, value in values.items():
        os.environ.setdefault(name, value)
