"""Registered versions behind real servers: MLflow's scoring server and vLLM's OpenAI server."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from transformers import AutoModelForCausalLM, GraniteConfig

from flows.platform.pages import free_port
from rlhf_core.data.render import render_prompt, render_response
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.models import load_scalar, save_model
from rlhf_core.modeling.padding import give_own_pad
from tasks.registry.packaging import VersionRecords, build, model_folder

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
CHAT = [{"role": "user", "content": "w3 w14 w15 w9"}]
PAIR = {"prompt": "w3 w14", "chosen": "w2 w4 w6 w8", "rejected": "w1"}


@pytest.fixture(scope="module")
def registry(tiny_model, tmp_path_factory) -> tuple[str, dict[str, Path]]:
    """Make a SQLite registry with a champion of each kind; its address, and its files by kind."""
    folder = tmp_path_factory.mktemp("registry")
    save_model(
        load_scalar(tiny_model, new_head=True, seed=3),
        load_tokenizer(tiny_model),
        folder / "scalar",
    )
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    for kind, model in (("policy", tiny_model), ("reward", folder / "scalar")):
        build(kind, model, folder / kind, VersionRecords())
        client.create_registered_model(f"tiny-{kind}")
        client.create_model_version(f"tiny-{kind}", source=str(folder / kind))
        client.set_registered_model_alias(f"tiny-{kind}", "champion", "1")
    return uri, {kind: folder / kind for kind in ("policy", "reward")}


@contextlib.contextmanager
def serving(command: list, health: str, log: Path, **environment: str) -> Iterator[str]:
    """Start a server on a free port ('PORT' in the command) and yield its address once it answers.

    At the end its process group is ended too.
    """
    port = str(free_port())
    words = [port if word == "PORT" else str(word) for word in command]
    with log.open("w") as out:
        process = subprocess.Popen(
            words,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=os.environ | environment,
            cwd=log.parent,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 240
        while not answers(address + health):
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.2)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=1).status == 200
    return False


def post(url: str, body: dict | bytes) -> tuple[int, dict | list]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def mlflow_serve(registry, kind: str, folder: Path):
    command = [
        BIN / "mlflow",
        "models",
        "serve",
        "-m",
        f"models:/tiny-{kind}@champion",
        "--env-manager",
        "local",
    ]
    command += ["--host", "127.0.0.1", "--port", "PORT"]
    # as in an active environment: MLflow starts uvicorn by its name
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return serving(command, "/ping", folder / "log", MLFLOW_TRACKING_URI=registry[0], PATH=path)


def test_mlflow_serves_the_policy(registry, tmp_path):
    root = registry[1]["policy"]
    model = mlflow.pyfunc.load_model(str(root))
    greedy = model.predict({"messages": CHAT}, params={"max_tokens": 8})
    with mlflow_serve(registry, "policy", tmp_path) as address:
        url = f"{address}/invocations"
        assert post(url, {"messages": CHAT, "temperature": 0, "max_tokens": 8}) == (200, greedy)
        batch = {"inputs": [{"messages": CHAT}] * 2, "params": {"max_tokens": 8}}
        assert post(url, batch) == (200, {"predictions": greedy * 2})
        sampled = {"messages": CHAT, "temperature": 1.0, "max_tokens": 8}
        first, again, other = (post(url, sampled | {"seed": seed})[1] for seed in (1, 1, 2))
        assert first == again != other
        assert post(url, (root / "serving_input_example.json").read_bytes())[0] == 200
        status, problem = post(url, {"messages": [{"role": "user", "content": "w1 " * 1100}]})
        assert status == 400 and "the model reads 1024" in problem["message"]


def test_mlflow_serves_the_reward_model(registry, tmp_path):
    root = registry[1]["reward"]
    model = mlflow.pyfunc.load_model(str(root))
    scored = [*CHAT, {"role": "assistant", "content": "w5 w6"}]
    with mlflow_serve(registry, "reward", tmp_path) as address:
        url = f"{address}/invocations"
        status, answer = post(url, {"inputs": [PAIR]})
        (expected,) = model.predict([PAIR]).to_dict("records")
        assert status == 200 and answer == {"predictions": [pytest.approx(expected, abs=1e-5)]}
        status, (row,) = post(url, {"messages": scored})
        # two processes may add the same numbers in another order
        expected = model.predict({"messages": scored})["score"][0]
        assert status == 200 and row == {"score": pytest.approx(expected, abs=1e-5)}
        assert post(url, (root / "serving_input_example.json").read_bytes())[0] == 200
        status, problem = post(url, {"messages": CHAT})
        assert status == 400 and "end with the assistant's turn" in problem["message"]


def vllm_serve(registry, kind: str, folder: Path, *flags: str):
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        model_folder(registry[1][kind]),
    ]
    command += [
        "--served-model-name",
        f"tiny-{kind}",
        "--dtype",
        "float32",
        "--load-format",
        "safetensors",
        *flags,
    ]
    command += [
        "--enforce-eager",
        "--distributed-executor-backend",
        "uni",
        "--host",
        "127.0.0.1",
        "--port",
        "PORT",
    ]
    return serving(
        command, "/health", folder / "log", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1"
    )


def test_vllms_own_server_serves_the_policy(registry, tmp_path):
    model = mlflow.pyfunc.load_model(str(registry[1]["policy"]))
    (greedy,) = model.predict({"messages": CHAT}, params={"max_tokens": 8})
    with vllm_serve(registry, "policy", tmp_path, "--generation-config", "vllm") as address:
        body = {"model": "tiny-policy", "messages": CHAT, "temperature": 0, "max_tokens": 8}
        status, answer = post(f"{address}/v1/chat/completions", body)
        assert status == 200 and answer["model"] == "tiny-policy"
        assert answer["choices"][0]["message"]["content"].split() == greedy.split()


def padded_with_eos(tiny_model: Path, folder: Path) -> Path:
    """A reward model from a base that pads with its end of turn."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.pad_token = tokenizer.eos_token
    give_own_pad(tokenizer, tiny_model)
    scalar = load_scalar(tiny_model, new_head=True, seed=3, tokens=len(tokenizer))
    save_model(scalar, tokenizer, folder / "scalar")
    return folder / "scalar"


def granite(tiny_model: Path, folder: Path) -> Path:
    """A reward model of a family without a sequence classifier."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = GraniteConfig(vocab_size=62, **sizes, **heads, **ids)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    scalar = load_scalar(folder / "base", new_head=True, seed=3)
    save_model(scalar, load_tokenizer(tiny_model), folder / "scalar")
    return folder / "scalar"


@pytest.mark.parametrize("made", [None, padded_with_eos, granite])
def test_vllms_own_server_serves_the_reward_model(registry, tiny_model, tmp_path, made):
    if made:
        build("reward", made(tiny_model, tmp_path), tmp_path / "version", VersionRecords())
        registry = (registry[0], {"reward": tmp_path / "version"})
    root = registry[1]["reward"]
    scored = [*CHAT, {"role": "assistant", "content": "w5 w6"}]
    (score,) = mlflow.pyfunc.load_model(str(root)).predict({"messages": scored})["score"]
    tokenizer = load_tokenizer(model_folder(root))
    ids = [*render_prompt(tokenizer, CHAT), *render_response(tokenizer, "w5 w6")]
    with vllm_serve(registry, "reward", tmp_path, "--runner", "pooling") as address:
        status, answer = post(
            f"{address}/classify", {"model": "tiny-reward", "input": [ids], "use_activation": False}
        )
        assert status == 200 and answer["data"][0]["probs"] == pytest.approx([score], abs=1e-4)
