"""Small model configurations, and plans of a stage for published shapes."""

from recipes import llama_recipe
from transformers import AutoConfig

from rlhf_core.plan.layout import strategy_of
from rlhf_core.plan.presets import preset
from rlhf_core.plan.shape import ModelShape, shape_of
from rlhf_core.plan.stage_plan import StageModels, StagePlan
from rlhf_core.plan.stages import plan_stage
from rlhf_core.plan.strategy import GIB, Hardware

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, dict] = {
    "grouped queries": {"model_type": "llama"},
    "tied": {"model_type": "llama", "tie_word_embeddings": True},
    "no groups": {"model_type": "llama", "num_key_value_heads": 4, "head_dim": 16},
    "biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral"},
    "qwen2": {"model_type": "qwen2", "head_dim": 16},
    "qwen3": {"model_type": "qwen3", "attention_bias": True},
}
H100 = Hardware("gpu", 80 * GIB, 2 * GIB)


def config_of(family: str) -> AutoConfig:
    return AutoConfig.for_model(**SMALL | FAMILIES[family], num_labels=1, pad_token_id=0)


def small(family: str) -> ModelShape:
    return shape_of(config_of(family).to_dict(), family, "a test")


def planned(
    name: str, stage: str, hardware: Hardware = H100, devices: int = 8, **sections: dict
) -> StagePlan:
    loaded, models = llama_recipe(**sections), StageModels(preset(name), preset(name))
    return plan_stage(loaded, stage, models, strategy_of(loaded, stage, devices), hardware)
