"""Deployments of the pipeline: by schedule, by event, by hand from Prefect's page."""

import flows.pipeline  # noqa: F401  before anything of Prefect: it sets what Prefect reads when it is imported
