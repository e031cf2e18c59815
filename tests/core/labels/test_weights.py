"""Accuracies of annotators by Dawid and Skene."""

from random import Random

import pytest

from rlhf_core.labels.votes import Vote
from rlhf_core.labels.weights import dawid_skene, log_odds


def simulated(accuracies: dict[str, float], pairs: int, seed: int) -> dict[str, list[Vote]]:
    rng = Random(seed)
    found = {}
    for number in range(pairs):
        truth = rng.choice("ab")
        wrong = {"a": "b", "b": "a"}[truth]
        found[f"p{number}"] = [
            Vote(f"p{number}", name, truth if rng.random() < accuracy else wrong)
            for name, accuracy in accuracies.items()
        ]
    return found


def test_accuracies_are_recovered_from_votes_alone():
    true = {"ann": 0.95, "bob": 0.8, "cem": 0.6}
    found = dawid_skene(simulated(true, 3000, 1))
    for name, accuracy in true.items():
        assert found[name] == pytest.approx(accuracy, abs=0.03)


def test_without_a_shared_pair_everybody_has_the_prior():
    alone = {"p": [Vote("p", "ann", "a")], "q": [Vote("q", "bob", "b")]}
    assert dawid_skene(alone) == {"ann": 0.8, "bob": 0.8}


def test_exchanging_the_replies_of_a_pair_changes_no_accuracy():
    votes = simulated({"ann": 0.9, "bob": 0.7, "cem": 0.7}, 200, 2)
    other = {"a": "b", "b": "a"}
    mirrored = {
        pair: [Vote(pair, v.annotator, other[v.choice]) for v in own] if n % 2 else own
        for n, (pair, own) in enumerate(votes.items())
    }
    assert dawid_skene(mirrored) == pytest.approx(dawid_skene(votes))


def test_log_odds_add_up_and_give_the_posterior():
    votes = [Vote("p", "ann", "a"), Vote("p", "bob", "b"), Vote("p", "cem", "same")]
    odds = log_odds(votes, {"ann": 0.9, "bob": 0.75})
    assert odds.probability == pytest.approx(9 / (9 + 3))
    assert log_odds([], {}).probability == 0.5
