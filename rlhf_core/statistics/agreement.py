"""Agreement of annotators, and of any two raters of pairs: Krippendorff's alpha."""

from dataclasses import dataclass

import krippendorff
import numpy as np

from rlhf_core.statistics.bounded import few_differ
from rlhf_core.statistics.clusters import (
    Clusters,
    bootstrap_clustered,
    clopper_pearson_clustered,
    wilson_clustered,
)
from rlhf_core.statistics.intervals import MIN_BOOTSTRAP, Term


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha with its 95% interval, and the pairs with two votes or more behind it.

    alpha: 1 all agree, 0 as often as by guessing, below 0 less often.
    """

    alpha: float
    low: float
    high: float
    n: int


def agreement(
    votes_for_N: np.ndarray, votes_against_N: np.ndarray, clusters: Clusters = None
) -> Agreement | None:
    """Return the nominal alpha (Krippendorff 2011) of votes for and against each pair's label.

    The label is the side that most votes are for, so it is no value of its own: every pair counts
    once as it is and once with its sides exchanged, and guessing has an alpha of 0. Then alpha is
    2 * P(two votes on a pair agree) - 1, but for 1 / (2 votes). The interval resamples pairs, or
    whole prompts (clusters); it is -1 to 1 below MIN_BOOTSTRAP pairs. Where nearly all pairs are
    unanimous, or nearly none is, it is no narrower than `_exact_ends`. None without a pair of two
    votes.
    """
    counts_N2 = np.stack([votes_for_N, votes_against_N], axis=1).astype(float)
    kept_N = counts_N2.sum(1) >= 2
    counts_N2 = counts_N2[kept_N]
    n = len(counts_N2)
    if not n:
        return None
    both = np.concatenate([counts_N2, counts_N2[:, ::-1]]).astype(int)
    alpha = float(krippendorff.alpha(value_counts=both, level_of_measurement="nominal"))
    inside = None if clusters is None else np.unique(clusters[kept_N], return_inverse=True)[1]
    prompts = n if inside is None else int(inside.max()) + 1
    if n < MIN_BOOTSTRAP or prompts < 2:
        return Agreement(alpha, -1.0, 1.0, n)
    low, high = bootstrap_clustered(_terms(counts_N2), inside)
    if few_differ(counts_N2.min(1) > 0, inside):
        exact_low, exact_high = _exact_ends(counts_N2, inside)
        low, high = min(low, exact_low), max(high, exact_high)
    return Agreement(alpha, max(-1.0, low), min(1.0, high), n)


def _terms(counts_N2: np.ndarray) -> list[Term]:
    """Return alpha as terms of `statistic`: 1 - observed / expected disagreement.

    The expected one is that of as many votes for either side.
    """
    votes_N = counts_N2.sum(1)
    apart_N = 2 * counts_N2.prod(1) / (votes_N - 1)
    return [(1, votes_N, votes_N), (-1, apart_N / _expected(votes_N), votes_N)]


def _expected(votes_N: np.ndarray) -> float:
    """Return the disagreement of as many votes for either side, by chance."""
    return float(votes_N.sum() / (2 * votes_N.sum() - 1))


def _exact_ends(counts_N2: np.ndarray, clusters: Clusters) -> tuple[float, float]:
    """Return the ends of alpha that the exact interval of the share of split pairs allows.

    A pair is split when its votes are not unanimous. The share has Clopper and Pearson's interval.
    For the lower end every split pair has as many votes on either side as can be, for the upper end
    one vote against the others. With two or three votes per pair both are the same, and alpha is a
    linear function of the share. How many votes a pair has must say nothing about its being split.
    """
    votes_N = counts_N2.sum(1)
    split_N = (counts_N2.min(1) > 0).astype(float)
    low, high = clopper_pearson_clustered(split_N, np.ones(len(split_N)), clusters)
    most_N = 2 * (votes_N // 2) * ((votes_N + 1) // 2) / (votes_N - 1)
    most, least = float(most_N.sum()), 2.0 * len(votes_N)
    scale = float(votes_N.sum()) * _expected(votes_N)
    return 1 - high * most / scale, 1 - low * least / scale


@dataclass(frozen=True)
class PairAgreement:
    """The rate at which two raters prefer the same answer of a pair, raw and beyond chance.

    n: pairs on which both have a preference. alpha: as in Agreement. Intervals are of 95%.
    """

    share: float
    share_interval: tuple[float, float]
    alpha: float
    alpha_interval: tuple[float, float]
    n: int


def pair_agreement(
    first_N: np.ndarray, second_N: np.ndarray, clusters: Clusters = None
) -> PairAgreement | None:
    """Return the agreement of two raters; None where no pair has a preference of both.

    first_N, second_N: 1 for one answer of the pair, 0 for the other, anything else no preference.
    The share has Wilson's interval, over whole prompts with clusters. Which answer comes first says
    nothing, so alpha is a linear function of the share, 1 - (1 - share) * (2 - 1 / (2 n)), and its
    interval that of the share.
    """
    decided_N = np.isin(first_N, (0, 1)) & np.isin(second_N, (0, 1))
    n = int(decided_N.sum())
    if not n:
        return None
    same_N = (decided_N & (first_N == second_N)).astype(float)
    low, high = wilson_clustered(same_N, decided_N.astype(float), clusters)
    share = float(same_N.sum()) / n

    def alpha(agreed: float) -> float:
        return 1 - (1 - agreed) * (2 - 1 / (2 * n))

    return PairAgreement(share, (low, high), alpha(share), (alpha(low), alpha(high)), n)
