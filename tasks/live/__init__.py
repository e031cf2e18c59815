"""Models in production: routes, replies and the evidence of the live gate in MLflow."""
