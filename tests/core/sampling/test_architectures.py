"""The model classes that vLLM serves, by its source, equal those of its registry."""

import pytest

from rlhf_core.plan.shape import FAMILIES
from rlhf_core.sampling import architectures
from rlhf_core.sampling.architectures import service_of, vllm_classes


def test_the_names_are_those_of_vllms_registry():
    from vllm.model_executor.models import ModelRegistry

    assert vllm_classes() == set(ModelRegistry.get_supported_archs())


@pytest.mark.parametrize(
    ("architecture", "service"),
    [
        ("LlamaForCausalLM", "own"),
        ("Gemma2ForCausalLM", "own"),
        ("BloomForCausalLM", "own"),
        ("HeliumForCausalLM", "transformers"),
        ("GPTNeoForCausalLM", "none"),
        ("XGLMForCausalLM", "none"),
        ("OfAnotherMake", None),
    ],
)
def test_a_class_is_served_by_vllms_own_by_transformers_or_not(architecture, service):
    assert service_of(architecture) == service


def test_the_families_that_need_no_check_are_served():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert {service_of(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]) for family in FAMILIES} == {"own"}


def test_nothing_is_known_without_vllm(monkeypatch):
    monkeypatch.setattr(architectures, "find_spec", lambda name: None)
    assert vllm_classes() is None and service_of("LlamaForCausalLM") is None
