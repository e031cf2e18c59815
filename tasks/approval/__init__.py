"""Approval by a person: the request, the decisions, the paused Prefect run."""
