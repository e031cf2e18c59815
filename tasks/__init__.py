"""The steps of the flow: here alone the core meets Prefect and MLflow."""

import os

SETTINGS = {  # what MLflow reads; what the environment says already stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # a dead server is given up within seconds, not after MLflow's four minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # large files go through the server: who is not told so may not reach the store behind it
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    # 100 MB by default, in each of up to 20 threads
    "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": str(16 * 2**20),
    # the display shows the links
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)
