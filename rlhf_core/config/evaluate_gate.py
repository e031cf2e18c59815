"""The gates of the evaluation, and their thresholds."""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from rlhf_core.benchmarks.names import GAIN, BenchmarkMetric
from rlhf_core.config.fields import Config, CorrelationBound, Finite, NonNegative, Positive, Share
from rlhf_core.config.gate_rules import Bound, GateRule
from rlhf_core.config.gates import Bounds, Ends, StageGate


class BenchmarkGate(Config):
    """The gates on one metric of a benchmark."""

    metric: Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")] = Field(
        "acc",
        description=(
            "Metric of the benchmark, as lm-eval names it; METRIC-FILTER where the task has"
            " several filters."
        ),
    )
    max_drop: NonNegative | None = Field(
        0.05,
        description=(
            "Lower 95% bound of the policy's metric - the SFT model's, on the same items, must be"
            " at least minus this. None: no gate."
        ),
    )
    min_value: Finite | None = Field(
        None,
        description="Lower 95% bound of the policy's metric must be at least this. None: no gate.",
    )
    min_n: Positive = Field(
        100, description="Smallest number of items. Below it, the gate refuses."
    )

    def rules(self, task: str) -> dict[str, GateRule]:
        """Return the rules on a benchmark, by the gate's name."""
        wanted = {
            f"benchmark_{task}": (GAIN, None if self.max_drop is None else -self.max_drop),
            f"benchmark_{task}_value": ("policy", self.min_value),
        }
        return {
            name: GateRule(
                stage="evaluate",
                metric=BenchmarkMetric(task, self.metric, of).name,
                of="lower",
                bound="at least",
                threshold=threshold,
                min_n=self.min_n,
            )
            for name, (of, threshold) in wanted.items()
            if threshold is not None
        }


class EvaluateGate(StageGate):
    """The gates of the evaluation."""

    stage = "evaluate"
    ends: ClassVar[Ends] = {
        "length": "upper",
        "min_length": "lower",
        "repetition": "upper",
        "alignment_tax": "upper",
    }
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
        2.0,
        description=(
            "Upper 95% bound of the mean length of replies, divided by the SFT model's, must be "
            "at most this."
        ),
    )
    min_length_ratio: NonNegative = Field(
        0.5,
        description=(
            "Lower 95% bound of the mean length of replies, divided by the SFT model's, must be "
            "at least this. 0: no bound."
        ),
    )
    max_repetition_increase: Share = Field(
        0.1,
        description=(
            "Upper 95% bound of the rise of the share of repeated 3-grams above the SFT model's "
            "must be at most this."
        ),
    )
    max_alignment_tax: NonNegative = Field(
        1.0,
        description=(
            "Upper 95% bound of the rise of the held-out SFT loss must be at most this, nats per "
            "token."
        ),
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
    benchmarks: dict[str, BenchmarkGate] = Field(
        {}, description="Gates on evaluate.benchmarks, by the benchmark's name."
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
            **{
                name: (rule.metric, rule.bound, rule.threshold)
                for name, rule in self._benchmark_rules().items()
            },
        }

    def rules(self) -> dict[str, GateRule]:
        """Return every gate as a rule; those of benchmarks look at the end of an interval."""
        own = {
            name: rule.model_copy(update={"override": self.overrides.get(name)})
            for name, rule in self._benchmark_rules().items()
        }
        return super().rules() | own

    def _benchmark_rules(self) -> dict[str, GateRule]:
        return {
            name: rule
            for task, gate in self.benchmarks.items()
            for name, rule in gate.rules(task).items()
        }
