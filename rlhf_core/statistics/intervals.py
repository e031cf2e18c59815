"""Confidence intervals and tests in plain numbers.

Intervals are two-sided; `confidence` is the probability that they cover the true value.
"""

import math
from functools import lru_cache

import numpy as np
from scipy.special import bdtr, betaincinv, ndtri

RESAMPLES = 10_000
# with fewer items, resampling underestimates the spread (one item would give width 0)
MIN_BOOTSTRAP = 10
_CELLS = 4_000_000  # numbers drawn at once


def wilson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927); (0, 1) for n = 0.

    successes may be half-integral, because a tie counts one half, and n an effective sample size.
    """
    if n == 0:
        return 0.0, 1.0
    z = float(ndtri((1 + confidence) / 2))
    p, z2 = successes / n, z**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mover(
    p: float,
    of_p: tuple[float, float],
    q: float,
    of_q: tuple[float, float],
    correlation: float = 0.0,
) -> tuple[float, float]:
    """Return the interval of p - q from the intervals of two estimates.

    MOVER, Zou and Donner 2008, Statistics in Medicine 27, equation 4; correlation: of the two
    estimates. Of Wilson intervals of independent shares it is Newcombe's method 10.
    """
    (p_low, p_high), (q_low, q_high) = of_p, of_q

    def reach(of_first: float, of_second: float) -> float:
        square = of_first**2 - 2 * correlation * of_first * of_second + of_second**2
        return math.sqrt(max(0.0, square))

    return p - q - reach(p - p_low, q_high - q), p - q + reach(p_high - p, q - q_low)


def clopper_pearson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a proportion from binomial tails; (0, 1) for n = 0.

    Clopper and Pearson 1934. Its lower end is above 1/2 exactly when the one-sided sign test
    rejects at (1 - confidence) / 2. Both arguments may be fractions: an effective sample size.
    """
    if n == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p-value of the exact sign test; 1 for n = 0.

    The hypothesis is as many wins as losses, ties left out, under Binomial(n, 1/2). Of items that
    changed sides it is McNemar's exact test (1947).
    """
    n = wins + losses
    return min(1.0, 2 * float(bdtr(min(wins, losses), n, 0.5))) if n else 1.0


# sign, numerators (N,), denominators (N,); all terms are over the same N items
Term = tuple[int, np.ndarray, np.ndarray]


def statistic(terms: list[Term]) -> float:
    """Return the sum over terms of sign * sum(numerators) / sum(denominators).

    NaN where a denominator is 0.
    """
    with np.errstate(all="ignore"):
        return float(
            sum(
                sign * numerators.sum() / denominators.sum()
                for sign, numerators, denominators in terms
            )
        )


def bootstrap(terms: list[Term], confidence: float = 0.95, *, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval (Efron 1979) of `statistic`.

    Raises ValueError for fewer than MIN_BOOTSTRAP items.
    """
    return percentiles(resampled(terms, seed=seed), confidence)


def resampled(terms: list[Term], *, seed: int = 0) -> np.ndarray:
    """Return `statistic` of RESAMPLES resamples with replacement, (RESAMPLES,), read-only.

    Items are resampled, and every term gets the same ones. Raises ValueError for fewer than
    MIN_BOOTSTRAP items.
    """
    require_items(len(terms[0][1]))
    packed = [
        (sign, *(np.asarray(values, float).tobytes() for values in (top, bottom)))
        for sign, top, bottom in terms
    ]
    return _resampled(tuple(packed), seed)


@lru_cache(maxsize=32)  # a run's gates and its report ask for the same ones
def _resampled(packed: tuple[tuple[int, bytes, bytes], ...], seed: int) -> np.ndarray:
    terms = [(sign, np.frombuffer(top), np.frombuffer(bottom)) for sign, top, bottom in packed]
    n = len(terms[0][1])
    generator, parts = np.random.default_rng(seed), []
    rows = max(1, _CELLS // n)
    for start in range(0, RESAMPLES, rows):
        index = generator.integers(n, size=(min(rows, RESAMPLES - start), n))
        with np.errstate(all="ignore"):
            parts.append(
                sum(
                    sign * top[index].sum(-1) / bottom[index].sum(-1) for sign, top, bottom in terms
                )
            )
    found = np.concatenate(parts)
    found.flags.writeable = False
    return found


def require_items(n: int) -> None:
    """Raise ValueError for fewer than MIN_BOOTSTRAP items."""
    if n < MIN_BOOTSTRAP:
        raise ValueError(
            f"a bootstrap interval needs at least {MIN_BOOTSTRAP} items, there are {n}"
        )


def percentiles(values_R: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return the ends between which the middle share `confidence` of resampled values is."""
    low, high = np.quantile(values_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
