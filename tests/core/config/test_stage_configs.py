"""The configuration of a stage: what its JSON holds, and that it comes back the same."""

import pytest

from rlhf_core.config import SFT, Evaluate
from rlhf_core.config.stage_configs import EvaluateStageConfig, Needs, SFTStageConfig
from rlhf_core.rundir import StageSpec

STRICT = SFT(lr=0.5, gate={"min_improvement": 0.25})


def test_a_threshold_is_not_in_it_and_ranks_are_where_there_are_several():
    values = SFTStageConfig(sft=STRICT, train=True, dtype="float32").model_dump(mode="json")
    assert set(values) == {"sft", "train", "dtype"} and "gate" not in values["sft"]
    assert values["sft"]["lr"] == 0.5
    several = SFTStageConfig(sft=STRICT, train=True, dtype="float32", ranks=2)
    assert several.model_dump(mode="json") == values | {"ranks": 2}


def test_a_limit_of_logits_is_in_it_where_it_is_not_the_default():
    values = SFTStageConfig(sft=STRICT, train=True, dtype="float32").model_dump(mode="json")
    small = SFTStageConfig(sft=STRICT, train=True, dtype="float32", logits_mib=64)
    assert small.model_dump(mode="json") == values | {"logits_mib": 64}


def test_how_checkpoints_are_written_is_in_it_where_it_is_not_the_default():
    values = SFTStageConfig(sft=SFT(), train=True, dtype="float32").model_dump(mode="json")
    often = SFT(checkpoint_minutes=5, async_checkpoints=True)
    other = SFTStageConfig(sft=often, train=True, dtype="float32").model_dump(mode="json")
    added = {"checkpoint_minutes": 5.0, "async_checkpoints": True}
    assert "checkpoint_minutes" not in values["sft"]
    assert other["sft"] == values["sft"] | added
    assert SFTStageConfig.model_validate(other).sft == often


@pytest.mark.parametrize(
    "config",
    [
        SFTStageConfig(sft=STRICT, train=True, dtype="float32", logits_mib=64),
        SFTStageConfig(sft=STRICT, train=False, dtype="bfloat16", ranks=4),
        EvaluateStageConfig(evaluate=Evaluate(), dtype="float32"),
    ],
)
def test_a_spec_read_back_is_the_same_stage(config):
    spec = StageSpec(stage="sft", seed=1, config=config, inputs={}, code="c")
    text = spec.model_dump_json()
    plain = StageSpec.model_validate_json(text)
    typed = StageSpec[type(config)].model_validate_json(text)
    assert plain.digest == typed.digest == spec.digest
    assert plain.ranks == typed.ranks == config.ranks
    assert type(typed.config) is type(config) and isinstance(plain.config, dict)


def test_what_nobody_needs_is_not_said():
    assert Needs().model_dump(exclude_defaults=True) == {}


def test_number_types_are_in_it_where_they_are_not_the_defaults():
    values = EvaluateStageConfig(evaluate=Evaluate(), dtype="float32").model_dump(mode="json")
    assert not {"frozen_dtype", "export_dtype"} & set(values)
    half = EvaluateStageConfig(evaluate=Evaluate(), dtype="float32", frozen_dtype="bfloat16")
    assert half.model_dump(mode="json") == values | {"frozen_dtype": "bfloat16"}
    saved = SFTStageConfig(sft=STRICT, train=True, dtype="float32", export_dtype="bfloat16")
    assert saved.model_dump(mode="json")["export_dtype"] == "bfloat16"
