"""A model folder is tried for packing by a few layers of its own weights."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Qwen3NextConfig,
)

from rlhf_core.errors import BadInput
from rlhf_core.modeling.row_borders import layers_to_try, require_separate_rows

SMALL = {"vocab_size": 64, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
SIZES = SMALL | {
    "hidden_size": 8,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
APART = {
    "llama": LlamaConfig(**SIZES),
    "gemma 2, window": Gemma2Config(**SIZES, head_dim=8, sliding_window=3),
    "gpt-2": GPT2Config(**SMALL, n_embd=8, n_layer=3, n_head=2),
    "opt": OPTConfig(
        **SMALL, hidden_size=8, ffn_dim=32, num_hidden_layers=3, num_attention_heads=2,
        word_embed_proj_dim=8,
    ),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4, experts_implementation="eager"),
}  # fmt: skip
CROSSING = {
    "bloom": BloomConfig(**SMALL, hidden_size=8, n_layer=3, n_head=2),
    "falcon h1": FalconH1Config(
        **SIZES, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8,
        mamba_chunk_size=8,
    ),
}  # fmt: skip


def saved(config, folder: Path, kind=AutoModelForCausalLM, dtype=torch.float32) -> Path:
    torch.manual_seed(3)
    kind.from_config(config).to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", APART)
def test_a_folder_whose_sequences_stay_apart_is_taken(family, tmp_path):
    require_separate_rows(saved(APART[family], tmp_path))


@pytest.mark.parametrize("family", APART)
def test_a_folder_whose_sequences_read_one_copy_of_their_prompt_is_taken(family, tmp_path):
    require_separate_rows(saved(APART[family], tmp_path), share_prompts=True)


def test_attention_of_the_familys_own_is_refused_for_shared_prompts_alone(tmp_path):
    folder = saved(GPTJConfig(**SMALL, n_embd=8, n_layer=2, n_head=2, rotary_dim=4), tmp_path)
    require_separate_rows(folder)
    with pytest.raises(BadInput, match=rf"^{tmp_path}: share_prompts = true: .* of its own"):
        require_separate_rows(folder, share_prompts=True)


@pytest.mark.parametrize("family", CROSSING)
def test_a_folder_that_reads_over_borders_is_refused_by_name(family, tmp_path):
    with pytest.raises(BadInput, match=rf"^{tmp_path}: packing = true: .* over the border"):
        require_separate_rows(saved(CROSSING[family], tmp_path))


def test_reward_models_and_files_in_bfloat16_are_tried_too(tmp_path):
    classifiers = AutoModelForSequenceClassification
    require_separate_rows(
        saved(APART["llama"], tmp_path / "a", kind=classifiers, dtype=torch.bfloat16)
    )
    with pytest.raises(BadInput, match="over the border"):
        require_separate_rows(
            saved(CROSSING["bloom"], tmp_path / "b", kind=classifiers, dtype=torch.bfloat16)
        )


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (LlamaConfig(num_hidden_layers=32), 1),
        (Gemma2Config(num_hidden_layers=26), 2),  # every second layer has a window
        (Qwen3NextConfig(num_hidden_layers=48), 4),  # three with a state, then one without
        (GPT2Config(), 1),
    ],
)
def test_one_layer_of_each_kind_is_tried(config, layers):
    assert layers_to_try(config) == layers
