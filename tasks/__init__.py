"""One file a stage: spec in, reference out. Only here the core meets Prefect and MLflow."""
