"""One file a stage, and what they share. Only here the core meets Prefect and MLflow."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before anything here imports mlflow
