"""What a stage process is told besides its inputs: one frozen model per stage.

Its JSON is part of a stage's identity: a gate's threshold is not in it, since it trains nothing.
"""

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, model_serializer

from rlhf_core.config.data import Data
from rlhf_core.config.evaluate import Evaluate
from rlhf_core.config.fields import Config, Positive
from rlhf_core.config.lora import LoRA
from rlhf_core.config.ppo import PPO
from rlhf_core.config.recipe import Dtype
from rlhf_core.config.rewards import RewardFunction
from rlhf_core.config.training import DPO, SFT, Reward


class StageConfig(Config):
    """Base of the stages' configurations."""

    ranks: Positive = Field(1, description="Processes of the stage, which sum in their own order")

    @model_serializer(mode="wrap")
    def _as_identity(self, handler: SerializerFunctionWrapHandler) -> dict:
        values = handler(self)
        if self.ranks == 1:
            del values["ranks"]
        for section in values.values():
            if isinstance(section, dict):
                section.pop("gate", None)
        return {name: value for name, value in values.items() if value != {}}


class PrepareStageConfig(StageConfig):
    """Where the base model comes from."""

    base: str


class Needs(Config):
    """What later stages will ask of the data and the model, by the options that are switched on."""

    strength: bool = False  # reward.margin_scale
    votes: bool = False  # reward.smoothing_from_votes
    functions: tuple[RewardFunction, ...] = ()  # those that want columns of the prompts
    adapters: tuple[LoRA, ...] = ()  # those that name their target modules
    tensor_parallel: tuple[int, ...] = ()  # above 1


class ValidateStageConfig(StageConfig):
    """Where the rows come from, what they must be like, and what later stages ask of them."""

    data: Data
    needs: Needs = Needs()

    @field_serializer("needs")
    def _only_what_is_asked(self, needs: Needs) -> dict:
        return needs.model_dump(mode="json", exclude_defaults=True)


class ModelStageConfig(StageConfig):
    """What every stage that runs models is told."""

    dtype: Dtype


class SFTStageConfig(ModelStageConfig):
    """train: False for a given SFT model, which is measured only."""

    sft: SFT
    train: bool


class RewardStageConfig(ModelStageConfig):
    """train: False for a given reward model, which is measured only."""

    reward: Reward
    train: bool


class PPOStageConfig(ModelStageConfig):
    """The PPO section."""

    ppo: PPO


class TraceStageConfig(PPOStageConfig):
    """rows: responses to show token by token."""

    rows: int


class DPOStageConfig(ModelStageConfig):
    """The DPO section."""

    dpo: DPO


class EvaluateStageConfig(ModelStageConfig):
    """The evaluation section; further reward models are inputs, known by content."""

    evaluate: Evaluate
