"""What runs, in what order; importing it sets what Prefect and MLflow read at their import."""

from flows import settings

settings.apply()
