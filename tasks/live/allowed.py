"""The settings of an MLflow server whose AI Gateway may ask servers of this machine."""

ALLOWED = {
    "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "https,http",
    "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
}
