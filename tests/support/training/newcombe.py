"""Newcombe's interval of the difference of two independent shares."""

from rlhf_core.statistics.intervals import mover, wilson


def newcombe(wins: int, n: int, other_wins: int, other_n: int) -> tuple[float, float, float]:
    """Return the difference of two independent shares, and the ends of its 95% interval.

    Newcombe 1998, Statistics in Medicine 17, method 10.
    """
    p, q = wins / n, other_wins / other_n
    return p - q, *mover(p, wilson(wins, n), q, wilson(other_wins, other_n))
