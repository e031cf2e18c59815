"""The gates that each stage has by itself, and their thresholds."""

from typing import Annotated, ClassVar

from pydantic import Field, ValidationError, model_validator

from rlhf_core.config.fields import NAME_LENGTH, Config, Finite, NonNegative, Positive, Share
from rlhf_core.config.gate_rules import Bound, GateRule, GateValue, Override

Overrides = Annotated[
    dict[str, Override], Field(description="Gate name -> recorded override of its threshold.")
]
Bounds = dict[str, tuple[str, Bound, float]]  # gate name -> metric, bound, threshold
# gate name -> end of the paired interval that a comparison is judged by
Ends = dict[str, GateValue]
# below, an interval by resampling is too narrow (rlhf_core/statistics/intervals.py)
MIN_COMPARED = 10


class StageGate(Config):
    """The gates that a stage has by itself. Each threshold is compiled to a rule."""

    stage: ClassVar[str]
    ends: ClassVar[Ends] = {}
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
                of=self.ends.get(name, "estimate"),
                min_n=MIN_COMPARED if name in self.ends else 1,
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
    ends: ClassVar[Ends] = {"improvement": "lower"}
    min_improvement: Finite = Field(
        0.0,
        description=(
            "Lower 95% bound of the held-out loss before training - after it must exceed this, nats"
            " per token."
        ),
    )

    def bounds(self) -> Bounds:
        """Return every gate of this section."""
        return {"improvement": ("sft/heldout_improvement", "more than", self.min_improvement)}


class RewardGate(StageGate):
    """The gates of the reward model."""

    stage = "reward"
    ends: ClassVar[Ends] = {"length_baseline": "lower"}
    min_accuracy: Share = Field(0.70, description="Smallest held-out pairwise accuracy.")
    min_lower_bound: Share = Field(
        0.60, description="Smallest lower end of the accuracy's 95% Wilson interval."
    )
    min_pairs: Positive = Field(
        100, description="Smallest number of held-out pairs. Below it, the gate fails."
    )
    min_over_length: Finite = Field(
        0.0,
        description=(
            "Lower 95% bound of the accuracy, less that of 'the longer answer wins' on the same"
            " pairs, must exceed this."
        ),
    )
    min_auc: Share = Field(
        0.70,
        exclude_if=lambda value: value == 0.70,
        description=(
            "Without comparisons: smallest probability that a held-out thumbs-up reply outranks a"
            " thumbs-down one."
        ),
    )
    min_auc_lower: Share = Field(
        0.60,
        exclude_if=lambda value: value == 0.60,
        description="Without comparisons: smallest lower end of its 95% interval.",
    )
    min_auc_over_length: Finite = Field(
        0.0,
        exclude_if=lambda value: value == 0.0,
        description=(
            "Without comparisons: lower 95% bound of this probability, less that of 'the longer"
            " reply is the better one', must exceed this."
        ),
    )
    min_rows: Positive = Field(
        100,
        exclude_if=lambda value: value == 100,
        description="Without comparisons: smallest number of held-out labels.",
    )
    min_per_label: Positive = Field(
        20,
        exclude_if=lambda value: value == 20,
        description="Without comparisons: smallest number of held-out replies of the rarer label.",
    )

    min_new_accuracy: Share | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description=(
            "Smallest accuracy on the held-out part of data.new_comparisons. None: it is measured,"
            " and no gate."
        ),
    )
    min_new_lower_bound: Share = Field(
        0.5,
        exclude_if=lambda value: value == 0.5,
        description=(
            "With min_new_accuracy: smallest lower end of this accuracy's 95% Wilson interval."
        ),
    )
    min_new_pairs: Positive = Field(
        20,
        exclude_if=lambda value: value == 20,
        description="With min_new_accuracy: smallest number of held-out new pairs.",
    )

    def bounds(self) -> Bounds:
        """Return every gate of this section: those of pairs, and those of single labels."""
        old: Bounds = {
            "pairs": ("reward/heldout_pairs", "at least", self.min_pairs),
            "accuracy": ("reward/accuracy", "at least", self.min_accuracy),
            "lower_bound": ("reward/accuracy_lower", "at least", self.min_lower_bound),
            "length_baseline": ("reward/accuracy_over_length", "more than", self.min_over_length),
            "rows": ("reward/heldout_rows", "at least", self.min_rows),
            "labels": ("reward/heldout_rarer", "at least", self.min_per_label),
            "auc": ("reward/auc", "at least", self.min_auc),
            "auc_lower_bound": ("reward/auc_lower", "at least", self.min_auc_lower),
            "auc_length_baseline": (
                "reward/auc_over_length_lower",
                "more than",
                self.min_auc_over_length,
            ),
        }
        return old | self._of_new_labels()

    def _of_new_labels(self) -> Bounds:
        if self.min_new_accuracy is None:
            return {}
        return {
            "new_pairs": ("reward/heldout_pairs_new", "at least", self.min_new_pairs),
            "new_accuracy": ("reward/accuracy_new", "at least", self.min_new_accuracy),
            "new_lower_bound": ("reward/accuracy_new_lower", "at least", self.min_new_lower_bound),
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


class KTOGate(StageGate):
    """The gates of KTO."""

    stage = "kto"
    min_lower_bound: Share = Field(
        0.5,
        description=(
            "Lower 95% bound of the probability that a held-out thumbs-up reply outranks a"
            " thumbs-down one must exceed this."
        ),
    )
    min_rows: Positive = Field(
        100, description="Smallest number of held-out replies. Below it, the gate fails."
    )
    min_per_label: Positive = Field(
        20, description="Smallest number of held-out replies of the rarer label."
    )

    def bounds(self) -> Bounds:
        """Return every gate of this section."""
        return {
            "rows": ("kto/heldout_rows", "at least", self.min_rows),
            "labels": ("kto/heldout_rarer", "at least", self.min_per_label),
            "lower_bound": ("kto/auc_lower", "more than", self.min_lower_bound),
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
