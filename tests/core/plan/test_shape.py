"""Parameter counts against published numbers, and against the models of transformers."""

import pytest
import torch
from stage_plans import FAMILIES, config_of, small
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_core.plan.presets import preset
from rlhf_core.plan.report import half_weights_gb
from rlhf_core.plan.stage_plan import StageModels

PUBLISHED = {  # parameters as transformers counts the released models
    "smollm2-135m": 134_515_008,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert preset(name).policy == PUBLISHED[name]


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_that_transformers_makes_of_the_config(family):
    shape, config = small(family), config_of(family)
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(config)
        scalar = AutoModelForSequenceClassification.from_config(config)
    assert shape.policy == sum(p.numel() for p in policy.parameters())
    assert shape.scalar == sum(p.numel() for p in scalar.parameters())
    linear = [m for m in policy.modules() if isinstance(m, torch.nn.Linear)]
    assert shape.layers * shape.layer_matrices + shape.embedding == sum(
        m.weight.numel() for m in linear
    )


def test_four_models_of_7b_are_56_gb_of_16_bit_weights():
    sizes = half_weights_gb(StageModels(preset("7b"), preset("7b")))
    assert sizes == {"actor": 14.0, "critic": 14.0, "reward": 14.0, "reference": 14.0}
