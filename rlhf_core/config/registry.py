"""The registry section: the registered models, and what a promotion needs beside passed gates."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from rlhf_core.benchmarks.names import WINS, parse
from rlhf_core.config.fields import NAME_LENGTH, Config, Positive, Share
from rlhf_core.config.gate_rules import GateRule
from rlhf_core.evidence.item_metrics import has_champion_value, is_against_champion, is_comparison
from rlhf_core.metrics import METRICS

AUTO = "auto"
CANDIDATES = "-candidate"  # ending of the name that candidates of a separate promoter have


class Contest(Config):
    """The contest of a candidate with the present champion, on the same held-out prompts.

    It is decided by the share of prompts that the candidate wins. Ties are left out.
    """

    metric: str = Field(
        AUTO,
        description=(
            "Metric that decides, higher is better. 'auto': by the independent scorer and by the"
            " judge, where configured; else by the reward models of candidate and champion. Of"
            " several, the worse one counts. A benchmark decides where it is named:"
            " eval/benchmark/TASK/METRIC_win_rate_vs_champion."
        ),
    )
    of: Literal["lower", "estimate"] = Field(
        "lower",
        description=(
            "Value that must exceed one half + min_effect: the lower end of the interval, or the"
            " estimate, which promotes by chance."
        ),
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        0.95,
        description=(
            "Probability that no candidate without a true win is promoted, over all contests on the"
            " same held-out prompts."
        ),
    )
    min_effect: Annotated[float, Field(ge=-0.5, lt=0.5)] = Field(
        0.0,
        description=(
            "Smallest effect: the share of decided prompts won must exceed one half by more than"
            " this."
        ),
    )
    min_n: Positive = Field(
        50, description="Smallest number of decided prompts. Below it, nothing is promoted."
    )

    @property
    def threshold(self) -> float:
        """The share of decided prompts that must be exceeded."""
        return 0.5 + self.min_effect

    def rule(self, metric: str, level: float | None) -> GateRule:
        """Return the rule by which one metric decides at a one-sided level.

        level: None for the estimate alone. Raises ValueError for a metric that has no winner per
        prompt.
        """
        level = level if level is not None else 1 - self.confidence
        return GateRule(
            stage="evaluate",
            metric=metric,
            of=self.of,
            bound="more than",
            threshold=self.threshold,
            versus="champion",
            method="sign",
            min_n=self.min_n,
            confidence=1 - 2 * level,
        )

    @field_validator("metric")
    @classmethod
    def _has_a_winner(cls, metric: str) -> str:
        if metric == AUTO or (metric in METRICS and _decides(metric)):
            return metric
        names = ", ".join(name for name in METRICS if _decides(name))
        raise ValueError(
            f"metric {metric!r} names no winner between candidate and champion for each prompt;"
            f" expected 'auto' or one of {names}, eval/benchmark/TASK/METRIC_{WINS}"
        )


def _decides(metric: str) -> bool:
    benchmark = parse(metric)
    if benchmark and not benchmark.is_share:  # of another metric, less may be better
        return False
    against = is_against_champion(metric)
    return (against or has_champion_value(metric)) and is_comparison(metric, paired=not against)


class Approval(Config):
    """The approval by a person before a policy may be promoted.

    While the pipeline waits, no stage process runs and no GPU is held.
    """

    # Prefect (3.7.7, 3.9.1) checks a deployment's parameters against this schema without every key
    # 'required', this field among them
    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})
    required: bool = Field(
        False,
        description="Ask a person after the last gate, on Prefect's page or by `rlhf approve RUN`.",
    )
    timeout_hours: Annotated[float, Field(gt=0, le=720)] = Field(
        72.0, description="Hours to wait. After them the policy is refused."
    )
    allow_self: bool = Field(
        False,
        description=(
            "Let the account that has registered the policy approve it. Of no effect where MLflow"
            " has no accounts."
        ),
    )


class Registry(Config):
    """The registered models, and what a promotion needs beside passed gates."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        max_length=NAME_LENGTH,
        description="The models are registered as '<name>-policy' and '<name>-reward'.",
    )
    contest: Contest = Field(Contest(), description="Contest with the present champion.")
    min_win_rate_vs_champion: Share | None = Field(
        None,
        description=(
            "Earlier name of the contest's threshold: 0.6 is contest.min_effect = 0.1. None:"
            " contest.min_effect counts."
        ),
    )
    separate_promoter: bool = Field(
        False,
        description=(
            "Register as '<name>-candidate-policy' and '<name>-candidate-reward', and promote"
            " nothing: another account of MLflow's server does, by `rlhf promote"
            " <name>-candidate VERSION`."
        ),
    )
    approval: Approval = Field(Approval(), description="Approval by a person.")

    @property
    def registered_as(self) -> str:
        """The name that the pipeline registers under: `name`, or that of its candidates."""
        return f"{self.name}{CANDIDATES}" if self.separate_promoter else self.name

    @property
    def contest_in_force(self) -> Contest:
        """The contest, with the threshold of the earlier key where that is given."""
        if self.min_win_rate_vs_champion is None:
            return self.contest
        effect = self.min_win_rate_vs_champion - 0.5
        return self.contest.model_copy(update={"min_effect": round(effect, 12)})

    @model_validator(mode="after")
    def _one_threshold(self) -> "Registry":
        given = self.min_win_rate_vs_champion
        if given is None:
            return self
        if given == 1:
            raise ValueError(
                "min_win_rate_vs_champion is 1, and no candidate can win more; expected less"
            )
        if "min_effect" in self.contest.model_fields_set:
            raise ValueError(
                f"min_win_rate_vs_champion {given:g} is the earlier name of contest.min_effect"
                f" {given - 0.5:g}, and contest.min_effect is {self.contest.min_effect:g} here;"
                " remove min_win_rate_vs_champion"
            )
        return self
