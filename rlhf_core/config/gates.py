"""The gates that each stage has by itself, and their thresholds."""

from typing import Annotated, ClassVar

from pydantic import Field, ValidationError, model_validator

from rlhf_core.config.fields import (
    NAME_LENGTH,
    Config,
    CorrelationBound,
    Finite,
    NonNegative,
    Positive,
    Share,
)
from rlhf_core.config.gate_rules import Bound, GateRule, Override

Overrides = Annotated[
    dict[str, Override], Field(description="Gate name -> recorded override of its threshold.")
]
Bounds = dict[str, tuple[str, Bound, float]]  # gate name -> metric, bound, threshold


class StageGate(Config):
    """The gates that a stage has by itself. Each threshold is compiled to a rule."""

    stage: ClassVar[str]
    overrides: Overrides = Field({})

    def bounds(self) -> Bounds:
        """Return every gate of this section: metric, bound and threshold by gate name."""
        raise NotImplementedError

    def rules(self) -> dict[str, GateRule]:
        """Return every gate as a rule with its override, by gate name."""
        return {
            name: GateRule(
                stage=self.stage,
                metric=metric,
                bound=bound,
                threshold=value,
                override=self.overrides.get(name),
            )
            for name, (metric, bound, value) in self.bounds().items()
        }

    @model_validator(mode="after")
    def _compiles(self) -> "StageGate":
        if unknown := sorted(set(self.overrides) - set(self.bounds())):
            raise ValueError(
                f"overrides has {unknown}, which would override nothing; the gates here are"
                f" {list(self.bounds())}"
            )
        try:
            self.rules()
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self


class SFTGate(StageGate):
    """The gate of supervised fine-tuning."""

    stage = "sft"
    min_improvement: Finite = Field(
        0.0,
        description="Held-out loss before training - after it must exceed this, nats per token.",
    )

    def bounds(self) -> Bounds:
        """Return every gate of this section."""
        return {"improvement": ("sft/heldout_improvement", "more than", self.min_improvement)}


class RewardGate(StageGate):
    """The gates of the reward model."""

    stage = "reward"
    min_accuracy: Share = Field(0.70, description="Smallest held-out pairwise accuracy.")
    min_lower_bound: Share = Field(
        0.60, description="Smallest lower end of the accuracy's 95% Wilson interval."
    )
    min_pairs: Positive = Field(
        100, description="Smallest number of held-out pairs. Below it, the gate fails."
    )
    min_over_length: Finite = Field(
        0.0, description="Accuracy must exceed that of 'the longer answer wins' by more than this."
    )

    def bounds(self) -> Bounds:
        """Return every gate of this section."""
        return {
            "pairs": ("reward/heldout_pairs", "at least", self.min_pairs),
            "accuracy": ("reward/accuracy", "at least", self.min_accuracy),
            "lower_bound": ("reward/accuracy_lower", "at least", self.min_lower_bound),
            "length_baseline": ("reward/accuracy_over_length", "more than", self.min_over_length),
        }


class PPOGate(StageGate):
    """The gate of policy optimisation."""

    stage = "ppo"
    max_kl_per_response: NonNegative = Field(
        50.0,
        description=(
            "Largest KL from the SFT model, nats per response: log pi - log pi_sft (k1) summed over"
            " a response's tokens, mean over the responses of the last 5 steps, each before its"
            " update."
        ),
    )

    def bounds(self) -> Bounds:
        """Return every gate of this section."""
        return {"kl": ("ppo/kl_per_response", "at most", self.max_kl_per_response)}


class DPOGate(StageGate):
    """The gates of DPO."""

    stage = "dpo"
    min_lower_bound: Share = Field(
        0.5,
        description=(
            "Lower 95% bound of the share of held-out pairs ranked as labelled must exceed this."
        ),
    )
    min_pairs: Positive = Field(
        100, description="Smallest number of held-out pairs. Below it, the gate fails."
    )

    def bounds(self) -> Bounds:
        """Return every gate of this section."""
        return {
            "pairs": ("dpo/heldout_pairs", "at least", self.min_pairs),
            "lower_bound": ("dpo/accuracy_lower", "more than", self.min_lower_bound),
        }


class EvaluateGate(StageGate):
    """The gates of the evaluation."""

    stage = "evaluate"
    min_win_rate_lower: Share = Field(
        0.5, description="Lower 95% bound of the win rate over the SFT model must exceed this."
    )
    max_kl_per_response: NonNegative = Field(
        50.0,
        description=(
            "Largest KL of the finished policy from the SFT model on held-out prompts, nats per"
            " response."
        ),
    )
    max_length_ratio: NonNegative = Field(
        2.0, description="Largest mean length of replies, divided by the SFT model's."
    )
    min_length_ratio: NonNegative = Field(
        0.5, description="Smallest mean length of replies, divided by the SFT model's. 0: no bound."
    )
    max_repetition_increase: Share = Field(
        0.1, description="Largest rise of the share of repeated 3-grams above the SFT model's."
    )
    max_alignment_tax: NonNegative = Field(
        1.0, description="Largest rise of the held-out SFT loss, nats per token."
    )
    min_independent_gain: Finite | None = Field(
        None,
        description=(
            "Lower 95% bound of the independent scorer's gain over the SFT model must exceed this."
            " None: no gate."
        ),
    )
    max_length_correlation: CorrelationBound | None = Field(
        0.8,
        description=(
            "Largest Pearson correlation of score and length, over the policy's replies and over"
            " the SFT model's. None: no gate."
        ),
    )
    min_distinct_2_ratio: NonNegative | None = Field(
        0.5,
        description=(
            "Smallest distinct-2-gram rate of all replies, divided by the SFT model's, both cut to"
            " equal length. A copied reply has about 0. None: no gate."
        ),
    )
    max_opening_share: Share | None = Field(
        None,
        description=(
            "Largest share of replies with the same first three words. None: no gate, because a"
            " policy may rightly greet each time."
        ),
    )
    max_first_word_rise: Share | None = Field(
        0.5,
        description=(
            "Largest share of replies with the same first word, less the same of the SFT model."
            " None: no gate."
        ),
    )
    max_prompt_loss: Share | None = Field(
        0.5,
        description=(
            "Lower 95% bound of the share that is lost of telling the prompt from the reply must be"
            " at most this. None: no gate."
        ),
    )
    max_kl_per_reward: NonNegative | None = Field(
        None,
        description=(
            "Largest KL per unit of score gained, nats. None: no gate, because the unit is the"
            " reward model's own."
        ),
    )
    max_reward_disagreement: NonNegative | None = Field(
        None,
        description=(
            "Largest spread over the ensemble and evaluate.reward_models, in standard deviations of"
            " the SFT model's scores. None: no gate."
        ),
    )
    max_independent_down: Share | None = Field(
        None,
        description=(
            "Largest share of prompts on which the score rose and the independent scorer's fell."
            " None: no gate."
        ),
    )
    min_prompts: Positive = Field(
        50, description="Smallest number of prompts. Below it, the gate fails."
    )

    @model_validator(mode="after")
    def _some_length_passes(self) -> "EvaluateGate":
        if self.min_length_ratio > self.max_length_ratio:
            raise ValueError(
                f"min_length_ratio {self.min_length_ratio:g} is above max_length_ratio"
                f" {self.max_length_ratio:g}: no policy could pass; set min_length_ratio to at most"
                f" {self.max_length_ratio:g}"
            )
        return self

    def bounds(self) -> Bounds:
        """Return every gate of this section that has a threshold."""
        length = self.max_length_correlation
        optional: dict[str, tuple[str, Bound, float | None]] = {
            "independent": ("eval/independent_gain_lower", "more than", self.min_independent_gain),
            "independent_down": (
                "eval/reward_up_independent_down",
                "at most",
                self.max_independent_down,
            ),
            "length_correlation": ("eval/length_correlation", "at most", length),
            "length_correlation_sft": ("eval/length_correlation_sft", "at most", length),
            "distinct_2": ("eval/distinct_2_cut_ratio", "at least", self.min_distinct_2_ratio),
            "opening": ("eval/opening_share", "at most", self.max_opening_share),
            "first_word": ("eval/first_word_rise", "at most", self.max_first_word_rise),
            "prompt": ("eval/prompt_retrieval_loss_lower", "at most", self.max_prompt_loss),
            "kl_per_reward": ("eval/kl_per_reward", "at most", self.max_kl_per_reward),
            "disagreement": ("eval/reward_disagreement", "at most", self.max_reward_disagreement),
        }
        given: Bounds = {
            name: (metric, bound, value)
            for name, (metric, bound, value) in optional.items()
            if value is not None
        }
        return given | {
            "prompts": ("eval/prompts", "at least", self.min_prompts),
            "win_rate": ("eval/win_rate_lower", "more than", self.min_win_rate_lower),
            "kl": ("eval/kl_per_response", "at most", self.max_kl_per_response),
            "length": ("eval/length_ratio", "at most", self.max_length_ratio),
            "min_length": ("eval/length_ratio", "at least", self.min_length_ratio),
            "repetition": ("eval/repetition_increase", "at most", self.max_repetition_increase),
            "alignment_tax": ("eval/alignment_tax", "at most", self.max_alignment_tax),
        }


GateName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=NAME_LENGTH)]


def require_free_names(rules: dict[str, GateRule], sections: list[StageGate]) -> None:
    """Raise ValueError if a gate of the user has the name of one that its stage has already."""
    for section in sections:
        for name in section.bounds():
            if name in rules and rules[name].stage == section.stage:
                raise ValueError(
                    f"{name} is a gate that the stage {section.stage} has already; expected a name"
                    f" other than {', '.join(section.bounds())}, or another threshold in"
                    f" {section.stage}.gate"
                )
