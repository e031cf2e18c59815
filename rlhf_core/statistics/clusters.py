"""Intervals and tests of items that share a prompt: items of one prompt are not independent.

Items of one prompt are alike, so their number overstates what they say. Six pairs per prompt with
an intraclass correlation of 0.2 give Wilson's interval of 95% a coverage of about 85%. Everything
here takes the item's prompt as the sampled unit:

- a share: Wilson's or Clopper and Pearson's interval of the effective sample size, n / design
  effect (Rao and Scott 1992, Biometrics 48, equations 2 and 3), with Student's t in place of the
  normal quantile (Korn and Graubard 1998, Survey Methodology 24). Franco, Little, Louis and Slud
  2019 (J. Survey Statistics and Methodology 7) compare such intervals, and recommend Wilson's.
- any other sum or ratio: percentile bootstrap of whole prompts (Davison and Hinkley 1997, section
  3.8), or, below MIN_CLUSTERS prompts, the linearised ratio with Student's t. The percentiles of
  ten independent items "of 95%" cover about 90%.

With one item per prompt every number is that of the functions for independent items.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.special import betainc, ndtri, stdtrit

from rlhf_core.statistics.intervals import (
    RESAMPLES,
    Term,
    bootstrap,
    clopper_pearson,
    mover,
    require_items,
    sign_test,
    statistic,
    wilson,
)

# below it, percentiles of resampled prompts are too narrow (Cameron, Gelbach and Miller 2008)
MIN_CLUSTERS = 50
Clusters = np.ndarray | None  # (N,) number of each item's cluster; None: one item per cluster


def clusters_of(keys: Sequence[Hashable]) -> Clusters:
    """Return the number of each item's cluster, (N,); None where no two items share a key."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    if len(numbers) == len(keys):
        return None
    return np.array([numbers[key] for key in keys])


def count_clusters(clusters: Clusters, counted_N: np.ndarray) -> int:
    """Return the number of clusters with an item that counts. counted_N: 0 for one left out."""
    if clusters is None:
        return int((counted_N != 0).sum())
    return len(np.unique(clusters[counted_N != 0]))


def by_cluster(terms: list[Term], clusters: Clusters) -> list[Term]:
    """Return the terms with one numerator and one denominator per cluster: the sums of its items.

    `statistic` of them is the same. To resample them is to resample whole clusters.
    """
    if clusters is None:
        return terms
    return [
        (sign, np.bincount(clusters, top), np.bincount(clusters, bottom))
        for sign, top, bottom in terms
    ]


def effective_size(wins_K: np.ndarray, sizes_K: np.ndarray, confidence: float = 0.95) -> float:
    """Return the number of independent items that say as much of a share; 0 for one cluster.

    wins_K, sizes_K: sums of each cluster. It is `design_size` * (z / t)^2, with t of K - 1 degrees
    of freedom.
    """
    clusters = int((sizes_K > 0).sum())
    if clusters < 2:
        return 0.0
    tail = (1 + confidence) / 2
    return design_size(wins_K, sizes_K) * float(ndtri(tail) / stdtrit(clusters - 1, tail)) ** 2


def design_size(wins_K: np.ndarray, sizes_K: np.ndarray) -> float:
    """Return n / max(1, design effect) of a share over two clusters or more.

    The design effect is the variance of the ratio, K / (K - 1) * sum((wins - share * size)^2) /
    n^2, over that of n independent items. A share of 0 or 1 shows no variance: the items of a
    cluster then count as one.
    """
    wins_K, sizes_K = wins_K[sizes_K > 0], sizes_K[sizes_K > 0]
    clusters, n = len(sizes_K), float(sizes_K.sum())
    share = float(wins_K.sum()) / n
    if 0 < share < 1:
        squares = float(((wins_K - share * sizes_K) ** 2).sum())
        effect = clusters / (clusters - 1) * squares / n / (share * (1 - share))
    else:
        effect = float((sizes_K**2).sum()) / n
    return n / max(1.0, effect)


def _effective(
    wins_N: np.ndarray, counted_N: np.ndarray, clusters: Clusters, confidence: float
) -> tuple[float, float] | None:
    """Return wins and size of independent items that say as much; None where items are."""
    kept_N = counted_N > 0
    if clusters is None or count_clusters(clusters, counted_N) == kept_N.sum():
        return None
    ((_, wins_K, sizes_K),) = by_cluster([(1, wins_N, counted_N)], clusters)
    size = effective_size(wins_K, sizes_K, confidence)
    return size * float(wins_N.sum() / counted_N.sum()), size


def wilson_clustered(
    wins_N: np.ndarray, counted_N: np.ndarray, clusters: Clusters, confidence: float = 0.95
) -> tuple[float, float]:
    """Return Wilson's interval of a share of items that may share a prompt.

    wins_N: 1 won, 0.5 tied, 0 lost or left out. counted_N: 1, or 0 for an item left out. One prompt
    alone gives (0, 1).
    """
    found = _effective(wins_N, counted_N, clusters, confidence)
    if found is None:
        return wilson(float(wins_N.sum()), round(float(counted_N.sum())), confidence)
    return wilson(*found, confidence)


def net_share(
    plus_N: np.ndarray, minus_N: np.ndarray, clusters: Clusters, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the difference of two shares of the same items, and the ends of its interval.

    plus_N, minus_N: 0 to 1, and no item has both. MOVER (Zou and Donner 2008) joins their Wilson
    intervals with the correlation of two counts of a multinomial distribution, -sqrt(p q / ((1 - p)
    (1 - q))). Unlike a bootstrap it has a width where all items are 0.
    """
    ones_N = np.ones(len(plus_N))
    plus, minus = float(plus_N.mean()), float(minus_N.mean())
    both = plus * minus
    correlation = -math.sqrt(both / ((1 - plus) * (1 - minus))) if both else 0.0
    low, high = mover(
        plus,
        wilson_clustered(plus_N, ones_N, clusters, confidence),
        minus,
        wilson_clustered(minus_N, ones_N, clusters, confidence),
        correlation,
    )
    return plus - minus, max(-1.0, low), min(1.0, high)


def clopper_pearson_clustered(
    wins_N: np.ndarray, counted_N: np.ndarray, clusters: Clusters, confidence: float = 0.95
) -> tuple[float, float]:
    """Return Clopper and Pearson's interval of a share of items that may share a prompt."""
    found = _effective(wins_N, counted_N, clusters, confidence)
    if found is None:
        return clopper_pearson(int(wins_N.sum()), int(counted_N.sum()), confidence)
    return clopper_pearson(*found, confidence)


def sign_test_clustered(differences_N: np.ndarray, clusters: Clusters) -> float:
    """Return the two-sided p-value of the sign test of items that may share a prompt.

    Ties are left out. Over independent items it is exact, and for two shares of the same items it
    is McNemar's test. Over shared prompts it is the binomial tail at the effective sample size.
    """
    wins_N, decided_N = (differences_N > 0).astype(float), (differences_N != 0).astype(float)
    wins, n = wins_N.sum(), decided_N.sum()
    found = _effective(wins_N, decided_N, clusters, 0.95)
    if found is None:
        return sign_test(int(wins), int(n - wins))
    _, size = found
    more = size * float(max(wins, n - wins)) / float(n)
    # P(X >= more) of Binomial(size, 1/2), as the incomplete beta function has it
    return min(1.0, 2 * float(betainc(more, size - more + 1, 0.5))) if size else 1.0


def bootstrap_clustered(
    terms: list[Term], clusters: Clusters, confidence: float = 0.95, *, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of `statistic` over items that may share a prompt.

    Raises ValueError for fewer than MIN_BOOTSTRAP independent items, and for a single prompt.
    """
    grouped = by_cluster(terms, clusters)
    if len(grouped[0][1]) >= MIN_CLUSTERS:
        return bootstrap(grouped, confidence, seed=seed)
    if clusters is None:
        require_items(len(grouped[0][1]))
    return linearised(grouped, confidence)


def linearised(grouped: list[Term], confidence: float) -> tuple[float, float]:
    """Return `statistic` -+ t * standard error of its linear approximation over K clusters."""
    value, error = statistic(grouped), linear_error(grouped)
    half = float(stdtrit(len(grouped[0][1]) - 1, (1 + confidence) / 2)) * error
    return value - half, value + half


def linear_error(grouped: list[Term]) -> float:
    """Return the standard error of the linear approximation of `statistic` over K clusters.

    Raises ValueError for a single cluster.
    """
    parts_K = influences(grouped)
    clusters = len(parts_K)
    if clusters < 2:
        raise ValueError("all items share one prompt; expected at least 2 different prompts")
    return math.sqrt(clusters / (clusters - 1) * float(np.square(parts_K).sum()))


def influences(grouped: list[Term]) -> np.ndarray:
    """Return what each cluster adds to the linear approximation of `statistic`, (K,), sum 0."""
    with np.errstate(all="ignore"):
        return np.sum(
            [
                sign * (top - top.sum() / bottom.sum() * bottom) / bottom.sum()
                for sign, top, bottom in grouped
            ],
            axis=0,
        )


def describe_bootstrap(clusters: Clusters, items: int) -> str:
    """Return in words how `bootstrap_clustered` makes its interval of so many items."""
    number, what = (items, "items") if clusters is None else (clusters.max() + 1, "prompts")
    if number >= MIN_CLUSTERS:
        return f"percentile bootstrap, {RESAMPLES:,} resamples of whole {what}, seed 0"
    return (
        f"linearised interval with Student's t, because there are fewer than {MIN_CLUSTERS} {what}"
    )


def describe_clusters(clusters: Clusters, counted_N: np.ndarray) -> str:
    """Return in words how shared prompts were taken into account; '' where there are none."""
    found = count_clusters(clusters, counted_N)
    if found == (counted_N != 0).sum():
        return ""
    return f"over {found:,} prompts that share items, each prompt sampled as a whole"
