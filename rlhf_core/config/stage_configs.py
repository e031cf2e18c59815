"""The configuration of a stage process, besides its inputs: one frozen model per stage.

Its JSON is part of a stage's identity. A gate's threshold is not in it, because it trains nothing.
"""

from typing import Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, model_serializer

from rlhf_core.config.data import Data
from rlhf_core.config.evaluate import Evaluate
from rlhf_core.config.fields import LOGITS_MIB, Config, Positive
from rlhf_core.config.judge import Judge
from rlhf_core.config.ppo import PPO
from rlhf_core.config.preference.kto import KTO
from rlhf_core.config.preference.reward import Reward
from rlhf_core.config.recipe import Dtype
from rlhf_core.config.rewards import RewardFunction
from rlhf_core.config.training import DPO, SFT, LoRA, Training

# how checkpoints are written changes no result: a default is not a part of the identity
_CHECKPOINT_KEYS = {
    name: Training.model_fields[name].default
    for name in ("checkpoint_minutes", "async_checkpoints")
}


def _keep_identity(section: dict) -> None:
    """Take thresholds, and defaults of how checkpoints are written, out of a section's values."""
    section.pop("gate", None)
    for name, default in _CHECKPOINT_KEYS.items():
        if section.get(name, default) == default:
            section.pop(name, None)


class StageConfig(Config):
    """Base of the stages' configurations."""

    ranks: Positive = Field(
        1, description="Processes of the stage. Their number decides the order of sums."
    )

    template_date: str | None = Field(
        None, description="Date that chat templates print, YYYY-MM-DD, if one of the inputs' does."
    )
    split_seed: int | None = Field(
        None,
        description="data.split_seed where it is not the seed, by which held-out rows are drawn.",
    )

    def heldout_seed(self, seed: int) -> int:
        """Return the seed of the draw of held-out rows, the same for runs of every seed.

        seed: that of the stage.
        """
        return seed if self.split_seed is None else self.split_seed

    @model_serializer(mode="wrap")
    def _as_identity(self, handler: SerializerFunctionWrapHandler) -> dict:
        values = handler(self)
        if self.ranks == 1:
            del values["ranks"]
        if self.template_date is None:
            del values["template_date"]
        if self.split_seed is None:
            del values["split_seed"]
        if values.get("logits_mib") == LOGITS_MIB:
            del values["logits_mib"]
        for name in ("frozen_dtype", "export_dtype"):
            if name in values and values[name] is None:
                del values[name]
        for section in values.values():
            if isinstance(section, dict):
                _keep_identity(section)
        return {name: value for name, value in values.items() if value != {}}


class PrepareStageConfig(StageConfig):
    """The source of the base model.

    split_seed is set where the quickstart's data are made with the base model.
    """

    base: str


class Needs(Config):
    """The needs of later stages, by the options that are on; empty if none of them is."""

    strength: bool = False  # reward.margin_scale
    votes: bool = False  # reward.smoothing_from_votes
    functions: tuple[RewardFunction, ...] = ()  # those that take columns of the prompts
    adapters: tuple[LoRA, ...] = ()  # those that name their target modules
    tensor_parallel: tuple[int, ...] = ()  # above 1
    adapter_sync: int = 0  # rank of the adapter that vLLM gets alone
    router_aux_loss_coef: float = 0.0  # the largest that a section sets
    packing: bool = False  # of any section
    share_prompts: bool = False  # of any section
    # router_aux_loss_coef of each section with share_prompts
    sharing_router_coefs: tuple[float | None, ...] = ()
    # evaluate.benchmarks, with the metrics of each that gates and the contest look at
    benchmarks: dict[str, tuple[str, ...]] = Field({})


class ValidateStageConfig(StageConfig):
    """The sources of rows, their rules, and what later stages need of them."""

    data: Data
    needs: Needs = Needs()

    @field_serializer("needs")
    def _only_what_is_asked(self, needs: Needs) -> dict:
        return needs.model_dump(mode="json", exclude_defaults=True)


class ModelStageConfig(StageConfig):
    """Base of the configurations of stages that run models."""

    dtype: Dtype
    export_dtype: Dtype | None = Field(None, description="model.export_dtype.")


class LanguageModelStageConfig(ModelStageConfig):
    """Base of the configurations of stages that run language models."""

    logits_mib: Positive = Field(
        LOGITS_MIB, description="model.logits_mib, which decides the order of sums."
    )


class SFTStageConfig(LanguageModelStageConfig):
    """The SFT section.

    train: False for a given SFT model, which is only measured.
    """

    sft: SFT
    train: bool


class RewardStageConfig(ModelStageConfig):
    """The reward section.

    train: False for a given reward model, which is only measured.
    """

    reward: Reward
    train: bool


class FrozenModelsStageConfig(LanguageModelStageConfig):
    """Base of the configurations of stages with models that do not learn."""

    frozen_dtype: Dtype | None = Field(None, description="model.frozen_dtype.")


class PPOStageConfig(FrozenModelsStageConfig):
    """The PPO section."""

    ppo: PPO


class TraceStageConfig(PPOStageConfig):
    """The PPO section of a trace.

    rows: responses to show token by token.
    """

    rows: int


class DPOStageConfig(LanguageModelStageConfig):
    """The DPO section."""

    dpo: DPO


class KTOStageConfig(LanguageModelStageConfig):
    """The KTO section."""

    kto: KTO


class EvaluateStageConfig(FrozenModelsStageConfig):
    """The evaluation section; further reward models are inputs, known by content.

    train_on: that of SFT, for the held-out loss.
    """

    evaluate: Evaluate
    train_on: Literal["all", "last"] = "all"


class LabelPairsStageConfig(FrozenModelsStageConfig):
    """The making of candidates for labelling: sampling, batches and judge of the evaluation.

    prompts: training prompts that the policy answers twice. comparisons: training pairs to score.
    """

    evaluate: Evaluate
    prompts: int = Field(ge=0)
    comparisons: int = Field(ge=0)


class LabelVotesStageConfig(StageConfig):
    """The labelling of pairs without people: by a judge, or by a function in place of annotators.

    annotators: 'module:function'. Exactly one of the two is set.
    """

    judge: Judge | None = None
    annotators: str | None = None


class LiveScoresStageConfig(FrozenModelsStageConfig):
    """The scoring of live replies by a reward model, all of them in one process."""

    micro_batch_tokens: Positive = 8192
