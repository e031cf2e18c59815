"""The environment variables that a user may set, for the reference page of commands."""

VARIABLES = {
    "RLHF_HOME": "The workspace: runs, records and the local MLflow store. Default: `.rlhf` in the "
    "current folder",
    "RLHF_DEBUG": "`1`: show tracebacks and Prefect's log, as `--debug` does",
    "RLHF_ALLOWED_ROOTS": "`FOLDER:FOLDER`: the folders below which recipes may read files. Not "
    "set: any folder. `rlhf up` gives its worker the folder in which it was started and the "
    "workspace",
    "RLHF_ALLOWED_BUCKETS": "`s3://BUCKET/FOLDER,...`: the addresses below which recipes may read "
    "where `RLHF_ALLOWED_ROOTS` confines them. Not set: none then, else any",
    "RLHF_REMOTE": "`s3://BUCKET/FOLDER`: where finished run directories and checkpoints are "
    "copied, and fetched from on another machine. Default: nowhere",
    "RLHF_STAGE_PYTHON": "The Python interpreter that runs the stages, where they have an "
    "environment of their own. Default: `stage/bin/python` in the virtual environment of `rlhf`, "
    "else the interpreter of `rlhf`",
    "RLHF_DEVICE_LIMITS": "Names of Prefect's concurrency limits that a stage holds, separated by "
    "commas; `none` where a cluster gives each run devices of its own. Default: one per visible "
    "GPU of the host, else one for its CPU",
    "RLHF_DATABASE_URL": "As `rlhf up --database`: `postgresql://user:password@host:port`",
    "RLHF_MLFLOW_PAGE": "Address of MLflow's page for browsers, where it differs from the address "
    "that workers use",
    "RLHF_PASSWORD_ACCOUNT": "The password of the account `ACCOUNT` (in capitals) that `rlhf "
    "access setup` creates. Default: a random one, in a file of mode 0600",
    "RLHF_PRICES": "A TOML file with prices of an hour, for `rlhf cost`, forecasts and "
    "`limits.money`. Default: `prices.toml` in the workspace",
    "RLHF_COMMIT": "The commit of the code, in an image without git",
    "RLHF_PLATFORM": "Do not set it: `rlhf up` does, so that `rlhf down` finds its processes",
    "RLHF_LIVE": "Do not set it: `rlhf live` does, so that `rlhf live stop` finds its processes",
    "RLHF_REPLY_LOG": "Do not set it: `rlhf live --log` does, to say its router what to keep",
    "RLHF_DEVICES": "Do not set it: a stage process finds all GPUs of its host there",
    "MLFLOW_TRACKING_URI": "MLflow's server. Default: the platform that `rlhf up` started, else "
    "`.rlhf/mlflow.db`",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "`true`: files of 500 MB or more go to the object "
    "store behind MLflow's server in parts, past the server. Default: `false`",
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "`true`: files come from the object store in parts, "
    "past the server. Default: `false`",
    "PREFECT_API_URL": "Prefect's server. Default: the platform that `rlhf up` started, else a "
    "temporary server for the run",
    "PREFECT_API_AUTH_STRING": "`user:password` of Prefect's server",
    "CUDA_VISIBLE_DEVICES": "The GPUs that stages may use; empty or `-1`: none",
    "OMP_NUM_THREADS": "Threads of a stage process. Default with several ranks on a CPU: cores "
    "/ ranks",
    "CXX": "The C++ compiler that DeepSpeed uses. Default: `g++`",
}
