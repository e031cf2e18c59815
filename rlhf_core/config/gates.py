"""The gates that each stage has by itself, and their thresholds."""

from typing import Annotated, ClassVar

from pydantic import Field, ValidationError, model_validator

from rlhf_core.config.fields import Config, CorrelationBound, Finite, NonNegative, Positive, Share
from rlhf_core.config.gate_rules import Bound, GateRule, Override

Overrides = Annotated[
    dict[str, Override], Field(description="Gate name -> recorded override of its threshold")
]
Bounds = dict[str, tuple[str, Bound, float]]  # gate name -> metric, bound, threshold


class StageGate(Config):
    """The gates that a stage has by itself: thresholds of its own, each compiled to a rule."""

    stage: ClassVar[str]
    overrides: Overrides = Field({})

    def bounds(self) -> Bounds:
        """Every gate of this section."""
        raise NotImplementedError

    def rules(self) -> dict[str, GateRule]:
        """The same as rules, with their overrides, by gate name."""
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
    stage = "sft"
    min_improvement: Finite = Field(
        0.0, description="Held-out loss before - after must exceed this, nats/token"
    )

    def bounds(self) -> Bounds:
        return {"improvement": ("sft/heldout_improvement", "more than", self.min_improvement)}


class RewardGate(StageGate):
    stage = "reward"
    min_accuracy: Share = Field(0.70, description="Held-out pairwise accuracy")
    min_lower_bound: Share = Field(0.60, description="Lower end of its 95% Wilson interval")
    min_pairs: Positive = Field(100, description="Held-out pairs, below which nothing is decided")
    min_over_length: Finite = Field(
        0.0, description="Accuracy must exceed that of 'the longer answer wins' by more than this"
    )

    def bounds(self) -> Bounds:
        return {
            "pairs": ("reward/heldout_pairs", "at least", self.min_pairs),
            "accuracy": ("reward/accuracy", "at least", self.min_accuracy),
            "lower_bound": ("reward/accuracy_lower", "at least", self.min_lower_bound),
            "length_baseline": ("reward/accuracy_over_length", "more than", self.min_over_length),
        }


class PPOGate(StageGate):
    stage = "ppo"
    max_kl_per_response: NonNegative = Field(
        50.0, description="Last step's KL from the SFT model, nats per response"
    )

    def bounds(self) -> Bounds:
        return {"kl": ("ppo/kl_per_response", "at most", self.max_kl_per_response)}


class DPOGate(StageGate):
    stage = "dpo"
    min_lower_bound: Share = Field(
        0.5,
        description=(
            "Lower 95% bound of the share of held-out pairs ranked as labelled must exceed this"
        ),
    )
    min_pairs: Positive = Field(100, description="Held-out pairs, below which nothing is decided")

    def bounds(self) -> Bounds:
        return {
            "pairs": ("dpo/heldout_pairs", "at least", self.min_pairs),
            "lower_bound": ("dpo/accuracy_lower", "more than", self.min_lower_bound),
        }


class EvaluateGate(StageGate):
    stage = "evaluate"
    min_win_rate_lower: Share = Field(
        0.5, description="Lower 95% bound of the win rate over the SFT model must exceed this"
    )
    max_kl_per_response: NonNegative = Field(
        50.0, description="Nats per response, on held-out prompts"
    )
    max_length_ratio: NonNegative = Field(2.0, description="Mean length over the SFT model's")
    max_repetition_increase: Share = Field(
        0.1, description="Share of repeated 3-grams above the SFT model's"
    )
    max_alignment_tax: NonNegative = Field(1.0, description="Rise of held-out SFT loss, nats/token")
    min_independent_gain: Finite | None = Field(
        None,
        description=(
            "Lower 95% bound of the independent scorer's gain over the SFT model must exceed this;"
            " None: no gate"
        ),
    )
    max_length_correlation: CorrelationBound | None = Field(
        0.8,
        description=(
            "Pearson's, of score and length, over the policy's replies and over the SFT model's;"
            " None: no gate"
        ),
    )
    min_distinct_2_ratio: NonNegative | None = Field(
        0.5,
        description=(
            "Distinct 2-grams of all replies over the SFT model's; None: no gate. A copied reply"
            " has about 0"
        ),
    )
    max_opening_share: Share | None = Field(
        None,
        description=(
            "Replies with the same first three words; None: no gate, for a policy may rightly greet"
            " each time"
        ),
    )
    max_kl_per_reward: NonNegative | None = Field(
        None,
        description=(
            "Nats per unit of score gained; None: no gate, for the unit is the reward model's own"
        ),
    )
    max_reward_disagreement: NonNegative | None = Field(
        None,
        description=(
            "Spread over the ensemble and evaluate.reward_models, standard deviations of the SFT"
            " model; None: no gate"
        ),
    )
    max_independent_down: Share | None = Field(
        None,
        description=(
            "Prompts on which the score rose and the independent scorer's fell; None: no gate"
        ),
    )
    min_prompts: Positive = Field(50, description="Prompts, below which nothing is decided")

    def bounds(self) -> Bounds:
        optional = {
            "independent": ("eval/independent_gain_lower", "more than", self.min_independent_gain),
            "independent_down": (
                "eval/reward_up_independent_down",
                "at most",
                self.max_independent_down,
            ),
            "length_correlation": (
                "eval/length_correlation",
                "at most",
                self.max_length_correlation,
            ),
            "length_correlation_sft": (
                "eval/length_correlation_sft",
                "at most",
                self.max_length_correlation,
            ),
            "distinct_2": ("eval/distinct_2_ratio", "at least", self.min_distinct_2_ratio),
            "opening": ("eval/opening_share", "at most", self.max_opening_share),
            "kl_per_reward": ("eval/kl_per_reward", "at most", self.max_kl_per_reward),
            "disagreement": ("eval/reward_disagreement", "at most", self.max_reward_disagreement),
        }
        return {name: bound for name, bound in optional.items() if bound[2] is not None} | {
            "prompts": ("eval/prompts", "at least", self.min_prompts),
            "win_rate": ("eval/win_rate_lower", "more than", self.min_win_rate_lower),
            "kl": ("eval/kl_per_response", "at most", self.max_kl_per_response),
            "length": ("eval/length_ratio", "at most", self.max_length_ratio),
            "repetition": ("eval/repetition_increase", "at most", self.max_repetition_increase),
            "alignment_tax": ("eval/alignment_tax", "at most", self.max_alignment_tax),
        }


GateName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


def require_free_names(rules: dict[str, GateRule], sections: list[StageGate]) -> None:
    """Raise ValueError when a gate of the user's own has the name of one that its stage has
    already.
    """
    for section in sections:
        for name in section.bounds():
            if name in rules and rules[name].stage == section.stage:
                raise ValueError(
                    f"{name} is a gate that the stage {section.stage} has already; expected a name"
                    f" other than {', '.join(section.bounds())}, or another threshold in"
                    f" {section.stage}.gate"
                )
