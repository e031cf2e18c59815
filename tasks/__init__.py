"""The steps of the flow: here alone the core meets Prefect and MLflow."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before anything here imports mlflow
