"""Commands about deployments on a Prefect server."""
