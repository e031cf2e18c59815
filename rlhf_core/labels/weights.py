"""Weigh each annotator's votes, from the votes alone.

Dawid and Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM
Algorithm", with one accuracy per annotator: replies a and b of a pair may be exchanged, so that
neither side has an error rate of its own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlhf_core.labels.votes import Vote

Accuracies = Mapping[str, float]  # annotator -> probability that a vote of theirs is right
# votes in the prior of each accuracy, 4 of 5 right: nobody with few votes is sure or worthless
PRIOR_RIGHT, PRIOR_WRONG = 4.0, 1.0
MOST_STEPS, TOLERANCE = 200, 1e-9


class Odds(NamedTuple):
    """The log odds that reply a is the better one, in nats."""

    log: float

    @property
    def probability(self) -> float:
        """The probability that reply a is the better one."""
        if self.log < 0:
            return math.exp(self.log) / (1 + math.exp(self.log))
        return 1 / (1 + math.exp(-self.log))


def log_odds(votes: Sequence[Vote], weights: Accuracies) -> Odds:
    """Return the sum over the votes that prefer a reply of +-log(p / (1 - p)), + for reply a.

    p: the annotator's accuracy. Annotators err independently, and a and b are as likely before.
    """
    total = 0.0
    for vote in votes:
        if vote.prefers:
            p = weights[vote.annotator]
            total += math.log(p / (1 - p)) * (1 if vote.choice == "a" else -1)
    return Odds(total)


def dawid_skene(votes_by_pair: Mapping[str, Sequence[Vote]]) -> dict[str, float]:
    """Return each annotator's accuracy, the mode of its posterior by expectation maximisation.

    Only pairs with two preferring votes or more say anything of it. The prior is Beta with
    PRIOR_RIGHT and PRIOR_WRONG votes. It begins at the votes' majority, so that annotators who are
    wrong most of the time cannot name the labels.
    """
    names = {vote.annotator for votes in votes_by_pair.values() for vote in votes if vote.prefers}
    shared = [
        preferring
        for votes in votes_by_pair.values()
        if len(preferring := [vote for vote in votes if vote.prefers]) > 1
    ]
    prior = PRIOR_RIGHT / (PRIOR_RIGHT + PRIOR_WRONG)
    accuracy = dict.fromkeys(sorted(names), prior)
    for _ in range(MOST_STEPS):
        right = dict.fromkeys(accuracy, PRIOR_RIGHT)
        total = dict.fromkeys(accuracy, PRIOR_RIGHT + PRIOR_WRONG)
        for votes in shared:
            is_a = log_odds(votes, accuracy).probability
            for vote in votes:
                right[vote.annotator] += is_a if vote.choice == "a" else 1 - is_a
                total[vote.annotator] += 1
        before, accuracy = accuracy, {name: right[name] / total[name] for name in accuracy}
        if max((abs(accuracy[n] - before[n]) for n in accuracy), default=0.0) < TOLERANCE:
            break
    return accuracy
