"""Agreement of judge, reward model and people, as an evaluation has recorded it."""

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.analysis.run_evidence import Estimate

RATERS = {
    "judge_people": "judge and people",
    "judge_reward": "judge and reward model",
    "reward_people": "reward model and people",
}
Bounded = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class RaterAgreement:
    """Agreement of two raters on n labelled held-out pairs, raw and as Krippendorff's alpha."""

    raters: str
    share: Bounded
    alpha: Bounded
    n: int


def rater_agreements(metrics: Mapping[str, Estimate]) -> list[RaterAgreement]:
    """Return the agreement of each two raters that the metrics of an evaluation have."""
    found = []
    for name, raters in RATERS.items():
        share, alpha = (metrics.get(f"eval/{kind}_{name}") for kind in ("agreement", "alpha"))
        if share and alpha:
            found.append(RaterAgreement(raters, _bounded(share), _bounded(alpha), share.n or 0))
    return found


def _bounded(value: Estimate) -> Bounded:
    assert value.low is not None and value.high is not None  # recorded with every agreement
    return value.value, value.low, value.high
