"""The local platform of a workspace: Prefect's server, MLflow's server and a worker."""
