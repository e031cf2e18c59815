"""The flows and the command line; importing this sets the settings of Prefect and MLflow."""

from flows import settings

settings.apply()
