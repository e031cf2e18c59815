"""The command of a vLLM server, and the models that it can serve."""

import json
import shutil

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.live.serving import require_servable, server_command, server_environment


def changed(model, tmp_path, **config):
    folder = shutil.copytree(model, tmp_path / "model")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def test_a_policy_of_the_pipeline_can_be_served(tiny_model):
    require_servable(tiny_model)


def test_an_architecture_that_vllm_lacks_is_refused(tiny_model, tmp_path):
    with pytest.raises(BadInput, match="no class NoSuchModel"):
        require_servable(changed(tiny_model, tmp_path, architectures=["NoSuchModel"]))


def test_a_model_without_a_chat_template_is_refused(tiny_model, tmp_path):
    folder = changed(tiny_model, tmp_path)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text())
    values.pop("chat_template", None)
    file.write_text(json.dumps(values))
    with pytest.raises(BadInput, match="no chat template"):
        require_servable(folder)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no config\.json"):
        require_servable(tmp_path)


def test_the_server_serves_the_folders_own_number_format_to_this_machine_alone(tiny_model):
    command = server_command(
        tiny_model, "tiny-policy-1", 8000, ("--max-model-len", "64"), cuda=False
    )
    assert command[command.index("--dtype") + 1] == "float32"
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--enforce-eager" in command and command[-2:] == ["--max-model-len", "64"]
    assert "--enforce-eager" not in server_command(tiny_model, "m", 8000, (), cuda=True)


def test_the_key_is_no_argument_that_every_user_of_the_machine_sees(tiny_model):
    assert server_environment("secret", cuda=True)["VLLM_API_KEY"] == "secret"
    assert "secret" not in server_command(tiny_model, "m", 8000, (), cuda=True)
