"""The command of a vLLM server that serves one model folder to the gateway of this machine."""

import json
import sys
from pathlib import Path

from rlhf_core.errors import BadInput
from rlhf_core.sampling.architectures import service_of, vllm_classes

HOST = "127.0.0.1"
DRAIN_SECONDS = 30  # for replies that are under way when a server is asked to end
# of a server on a CPU: no compilation, no process of its own for the only worker
ON_CPU = ("--enforce-eager", "--distributed-executor-backend", "uni")
CPU_CACHE_GIB = "1"
SETTINGS = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "PYTHONSAFEPATH": "1"}


def require_servable(folder: Path) -> None:
    """Raise BadInput for a model folder that vLLM's chat API cannot serve."""
    if vllm_classes() is None:
        raise BadInput(
            "vLLM is not installed, and the champion is served with it; install the requirements"
            " (make setup, or pip install 'rlhf-pipeline[cpu]')."
        )
    config = _config(folder)
    (name, *_) = config.get("architectures") or [str(config.get("model_type"))]
    if service_of(name) in (None, "none"):
        raise BadInput(
            f"vLLM cannot serve the model in {folder}: it has no class {name}. Serve it with"
            " mlflow models serve, or train another architecture (rlhf inspect --model FOLDER)."
        )
    if not _has_template(folder):
        raise BadInput(
            f"the model in {folder} has no chat template, and requests are conversations; expected"
            " chat_template.jinja. Run its recipe again, which adds one."
        )


def server_command(
    folder: Path,
    model: str,
    port: int,
    further: tuple[str, ...],
    *,
    cuda: bool,
    python: str = sys.executable,
) -> list[str]:
    """Return the command that serves a folder under the name `model`.

    further: arguments of the user, which come last and so win. The key is in VLLM_API_KEY, because
    every user of a machine sees a process's arguments.
    """
    config = _config(folder)
    return [
        python,
        "-P",  # a file of the current folder must not take a library's place
        "-m",
        "vllm.entrypoints.openai.api_server",
        *("--model", str(folder), "--served-model-name", model, "--load-format", "safetensors"),
        *("--dtype", str(config.get("dtype") or config.get("torch_dtype") or "auto")),
        # the folder's own sampling settings would change temperature and penalties unseen
        *("--generation-config", "vllm"),
        *("--host", HOST, "--port", str(port), "--disable-uvicorn-access-log"),
        "--enable-server-load-tracking",  # says when a server has no request left
        *("--shutdown-timeout", str(DRAIN_SECONDS)),
        *(() if cuda else ON_CPU),
        *further,
    ]


def server_environment(key: str, *, cuda: bool) -> dict[str, str]:
    """Return the variables of a server that answers to `key` alone."""
    cache = {} if cuda else {"VLLM_CPU_KVCACHE_SPACE": CPU_CACHE_GIB}
    return SETTINGS | cache | {"VLLM_API_KEY": key}


def _config(folder: Path) -> dict:
    file = folder / "config.json"
    if not file.exists():
        raise BadInput(f"{folder} has no config.json; expected a Hugging Face model folder.")
    return json.loads(file.read_text(encoding="utf-8"))


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists():
        return True
    file = folder / "tokenizer_config.json"
    return file.exists() and bool(json.loads(file.read_text(encoding="utf-8")).get("chat_template"))
