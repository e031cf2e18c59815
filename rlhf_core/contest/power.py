"""Power of a contest: exact binomial probabilities, without an approximation.

Of n decided prompts a candidate wins Binomial(n, share). It is promoted when the lower end of the
Clopper-Pearson interval is above the threshold, which is when P(Binomial(n, threshold) >= wins) is
less than the level.
"""

import numpy as np
from scipy.stats import binom

SAW = 100  # prompts around an estimate within which the power rises and falls


def p_value(wins: int, n: int, threshold: float) -> float:
    """Return P(Binomial(n, threshold) >= wins), the one-sided p-value; 1 for n = 0."""
    return float(binom.sf(wins - 1, n, threshold)) if n else 1.0


def wins_needed(n: int, level: float, threshold: float = 0.5) -> int | None:
    """Return the fewest wins of n that promote, None when even n wins do not."""
    wins = int(binom.isf(level, n, threshold))  # near it; the loop makes it exact
    while wins > 0 and p_value(wins - 1, n, threshold) < level:
        wins -= 1
    while p_value(wins, n, threshold) >= level:
        wins += 1
        if wins > n:
            return None
    return wins


def power(n: int, share: float, level: float, threshold: float = 0.5) -> float:
    """Return the probability that a candidate that truly wins `share` is promoted by n prompts."""
    wins = wins_needed(n, level, threshold)
    return 0.0 if wins is None else float(binom.sf(wins - 1, n, share))


def prompts_needed(
    share: float, wanted: float, level: float, threshold: float = 0.5, *, most: int = 10_000_000
) -> int | None:
    """Return the number of decided prompts from which on the power is `wanted`, None above `most`.

    The exact power is a saw: one prompt more may need one win more. So the first number with that
    power is not enough; from this one on, every number has it.
    """
    if share <= threshold:
        return None
    high = 1
    while power(high, share, level, threshold) < wanted:
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(middle, share, level, threshold) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    near = np.arange(max(1, high - SAW), high + SAW + high // 10)
    needed = binom.isf(level, near, threshold) + 1
    below = near[binom.sf(needed - 1, near, share) < wanted]
    return int(below[-1]) + 1 if len(below) else high


def detectable_share(n: int, wanted: float, level: float, threshold: float = 0.5) -> float | None:
    """Return the smallest true share that n prompts promote with power `wanted`, to 0.0001."""
    if power(n, 1.0, level, threshold) < wanted:
        return None
    low, high = threshold, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        enough = power(n, middle, level, threshold) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return high
