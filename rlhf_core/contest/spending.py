"""Alpha spending: the level of each contest on the same held-out prompts.

Contest k has the level alpha * gamma_k with gamma_k = k^-1.6 / zeta(1.6), whose sum over all k is
1. By the union bound the probability that any candidate without a true win is promoted is at most
the sum of the levels, alpha, however many contests there are and however they depend on each other.
That is arithmetic: a Bonferroni correction for a number of tests that nobody knows beforehand.

The R package onlineFDR has it as `Alpha_spending`, and this sequence as the default of SAFFRON
(Ramdas et al. 2018, arXiv:1802.09098). The spending functions of group-sequential trials (Lan and
DeMets 1983, Biometrika 70) share the idea and not the method: their looks are at data that grow.
Tian and Ramdas (arXiv:1910.04900) gain power where tests are independent. Alpha investing (Foster
and Stine 2008, JRSS B 70) earns levels back by promotions, and controls a false discovery rate.
"""

EXPONENT = 1.6
_WHOLE = 2.2857656656801293  # zeta(1.6), the sum of k^-1.6
# of the budget: from here on the same effect needs twice the prompts of the first contest
NEARLY_SPENT = 0.8


def share_of_budget(look: int) -> float:
    """Return gamma_k, the share of the budget that contest `look` (from 1) may spend."""
    return look**-EXPONENT / _WHOLE


def spent_share(looks: int) -> float:
    """Return the share of the budget that the first `looks` contests spend together."""
    return sum(share_of_budget(look) for look in range(1, looks + 1))


def level(look: int, confidence: float) -> float:
    """Return the one-sided level of contest `look`: (1 - confidence) * gamma_k."""
    return (1 - confidence) * share_of_budget(look)


def level_of_look(look: int, known: float, known_look: int) -> float:
    """Return the level of contest `look`, given that `known_look` has the level `known`."""
    return known * share_of_budget(look) / share_of_budget(known_look)


def is_nearly_spent(looks: int) -> bool:
    """Return True when so much of the budget is spent that other prompts should be taken."""
    return spent_share(looks) >= NEARLY_SPENT
