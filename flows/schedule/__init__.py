"""Deployments of the pipeline: by schedule, by event, by hand from Prefect's page."""
