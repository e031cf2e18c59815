"""MLflow's AI Gateway: settings with which it may ask this machine, and its routes."""

ALLOWED = {
    "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "https,http",
    "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
}
# base addresses for OpenAI clients, which add /chat/completions. The first one drops the fields of
# a request that MLflow does not know, the second one passes all of them on
CHAT, PASSTHROUGH = "/gateway/mlflow/v1", "/gateway/openai/v1"
