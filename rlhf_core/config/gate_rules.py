"""The rule of a gate: one bound on one metric. Every gate of a recipe becomes one."""

import difflib
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator
from pydantic_core import PydanticKnownError

from rlhf_core.config.fields import Config, Finite, Positive
from rlhf_core.evidence.final_metrics import final_metrics, has_recorded_interval, is_final
from rlhf_core.evidence.item_metrics import (
    ITEM_METRICS,
    base_metric,
    benchmark_of,
    has_champion_value,
    is_against_champion,
    is_comparison,
    is_proportion,
)
from rlhf_core.metrics import METRICS, domain
from rlhf_core.stage_catalogue import STAGES, gated_stages

GateValue = Literal["estimate", "lower", "upper"]
Bound = Literal["at least", "more than", "at most", "less than"]
RECORDED_CONFIDENCE = 0.95  # of the intervals that stages write
IntervalMethod = Literal["auto", "wilson", "bootstrap", "sign"]


def _require_gated(name: object) -> object:
    names = gated_stages()
    if name not in names:
        *others, last = [repr(name) for name in names]
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
    return name


def _with_names(schema: dict[str, JsonValue]) -> None:
    schema["enum"] = [*gated_stages()]


# a Literal of the names in the catalogue, also of a stage that is added to it later
GatedStage = Annotated[str, BeforeValidator(_require_gated), Field(json_schema_extra=_with_names)]


class Override(Config):
    """A recorded decision to let a worse value pass.

    It is visible in the run, the registry tags and the report.
    """

    threshold: Finite = Field(description="Threshold used in place of the recipe's.")
    reason: str = Field(min_length=8, description="Reason, one sentence.")
    by: str = Field("unknown", description="Person who decided.")


class GateRule(Config):
    """One bound on a final metric of a stage, an end of its interval, or a paired difference."""

    stage: GatedStage = Field(description="Stage whose result the gate looks at.")
    metric: str = Field(
        description="A final metric of that stage, see rlhf_core/metric_tables/stages.py."
    )
    of: GateValue = Field(
        "estimate",
        description="Value compared with the threshold: the estimate or an end of its interval.",
    )
    bound: Bound = Field(description="Relation to the threshold that the value must have.")
    threshold: Finite = Field(
        description="Threshold in the metric's unit. With method 'sign' it is a share."
    )
    minus: str | None = Field(
        None, description="Baseline, a metric of the same stage. The gate looks at metric - minus."
    )
    versus: Literal["champion"] | None = Field(
        None,
        description=(
            "'champion': the gate looks at policy - champion on the same items. Without a champion"
            " it passes."
        ),
    )
    min_n: Positive = Field(
        1, description="Smallest number of samples behind the metric. Below it, the gate refuses."
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        0.95, description="Confidence level of the two-sided interval."
    )
    method: IntervalMethod = Field(
        "auto",
        description=(
            "Interval: 'wilson' (a share), 'bootstrap' (paired, percentile), 'sign' (share of"
            " decided items that are won, with its exact binomial interval). 'auto': the interval"
            " of the stage if it has one, else 'wilson' for a share, else 'bootstrap'."
        ),
    )
    severity: Literal["error", "warning"] = Field(
        "error", description="'error' stops the pipeline. 'warning' is recorded and shown only."
    )
    override: Override | None = Field(
        None, description="Recorded decision to let a value pass that misses the threshold."
    )

    @model_validator(mode="after")
    def _can_be_decided(self) -> "GateRule":
        for metric in filter(None, (self.metric, self.minus)):
            _require_metric(self.stage, metric)
        if self.minus and self.versus:
            raise ValueError("minus and versus exclude each other; expected one baseline")
        if self.versus:
            _require_comparable(self.metric)
        self._require_interval()
        self._require_possible(self.threshold, "threshold")
        if self.override:
            self._require_possible(self.override.threshold, "override.threshold")
        return self

    @model_validator(mode="after")
    def _pairs_the_same_items(self) -> "GateRule":
        if self.minus and benchmark_of(self.metric) != benchmark_of(self.minus):
            raise ValueError(
                f"{self.metric} and {self.minus} are of different items, and a difference is paired"
                " over the same ones; expected both of one benchmark, or neither of any"
            )
        return self

    @property
    def is_paired(self) -> bool:
        """True if a baseline is subtracted.

        A metric that compares with the champion is a comparison already.
        """
        return self.minus is not None or (
            self.versus is not None and not is_against_champion(self.metric)
        )

    def domain(self) -> tuple[float, float]:
        """Return the least and the greatest value that the gate can see."""
        low, high = domain(self.metric)
        if self.method == "sign":
            return 0.0, 1.0
        if not self.is_paired:
            return low, high
        other_low, other_high = domain(self.minus or self.metric)
        return low - other_high, high - other_low

    def _require_interval(self) -> None:
        asked = self.of != "estimate" or self.method != "auto"
        if asked and (base := base_metric(self.metric)) != self.metric:
            raise ValueError(
                f"{self.metric} is an end of an interval already; expected metric = {base!r} with"
                " of and method"
            )
        for metric in filter(None, (self.metric, self.minus)):
            if asked and self.is_paired and metric not in ITEM_METRICS:
                raise ValueError(
                    f"{metric} is not known item by item: the difference has no interval; expected"
                    " of = 'estimate'"
                )
        if asked and not self.is_paired:
            self._require_known_interval()
        if self.method == "wilson" and (self.is_paired or not is_proportion(self.metric)):
            raise ValueError(
                f"method 'wilson' is for a share of items and no difference; {self.metric} needs"
                " 'bootstrap'"
            )
        if self.method == "sign" and not is_comparison(self.metric, paired=self.is_paired):
            raise ValueError(
                f"method 'sign' needs a winner for each item; {self.metric} has none, or needs"
                " minus or versus"
            )

    def _require_known_interval(self) -> None:
        """Raise ValueError for a metric that has no interval, or not the one that is asked for."""
        if self.metric in ITEM_METRICS:
            return
        if not has_recorded_interval(self.metric):
            raise ValueError(
                f"{self.metric} has no interval: no stage records one, and it is not known item by"
                " item; expected of = 'estimate' and method = 'auto'"
            )
        if self.method != "auto" or self.confidence != RECORDED_CONFIDENCE:
            raise ValueError(
                f"{self.metric} is not known item by item: it has the {RECORDED_CONFIDENCE:.0%}"
                " interval alone that its stage records; expected method = 'auto' and confidence ="
                f" {RECORDED_CONFIDENCE:g}"
            )

    def _require_possible(self, threshold: float, field: str) -> None:
        low, high = self.domain()
        strict = (self.bound == "more than" and threshold == high) or (
            self.bound == "less than" and threshold == low
        )
        if not low <= threshold <= high or strict:
            raise ValueError(
                f"{field} {threshold:g} is impossible: the value of the gate is between {low:g}"
                f" and {high:g}, and must be {self.bound} it"
            )


def _require_metric(stage: str, metric: str) -> None:
    prefix = f"{STAGES[stage].metric_prefix}/"
    if metric in METRICS and metric.startswith(prefix) and is_final(metric):
        return
    names = final_metrics(prefix)
    close = difflib.get_close_matches(metric, names, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"expected one that begins with {prefix}"
    )
    if metric in METRICS and metric.startswith(prefix):
        raise ValueError(
            f"{metric} is logged at the steps of the stage {stage} alone, and a gate looks at its"
            f" result; {hint}"
        )
    raise ValueError(f"there is no metric {metric!r} of the stage {stage}; {hint}")


def _require_comparable(metric: str) -> None:
    if not has_champion_value(metric) and not is_against_champion(metric):
        names = [name for name in METRICS if has_champion_value(name) or is_against_champion(name)]
        raise ValueError(
            f"{metric} is not known of the champion's replies; versus takes {', '.join(names)}"
        )
