"""Near duplicates: shingles, recall against every pair, and clusters."""

import random
from itertools import combinations

import pytest

from rlhf_core.data.splitting.near_duplicates import (
    _index,
    _signatures,
    jaccard,
    linked_pairs,
    near_duplicates,
    shingles,
)


def test_shingles_are_runs_of_three_words_whatever_case_punctuation_and_width():
    assert shingles("A b, c.") == {" a b", "a b c", "b c "}
    assert shingles("ａ  B\nc") == shingles("a b c")
    assert shingles("one") == {" one "}
    assert shingles("你好吗") == {" 你 好", "你 好 吗", "好 吗 "}
    assert shingles(" ?! ") == {"?!"} and shingles("") == {""}


def test_one_other_word_makes_another_short_question_and_a_near_duplicate_of_a_long_one():
    short = [shingles(f"what is the capital of {name}") for name in ("France", "Spain")]
    assert jaccard(*short) == pytest.approx(4 / 8)
    words = [f"w{i}" for i in range(40)]
    long = [shingles(" ".join([*words[:20], other, *words[21:]])) for other in ("x", "y")]
    assert jaccard(*long) == pytest.approx(37 / 43)


def documents(n, seed=1):
    """Texts of 60 words in families of four, a few words exchanged in each."""
    rng, texts = random.Random(seed), []
    for family in range(n // 4):
        words = [f"f{family}w{i}" for i in range(60)]
        for _ in range(4):
            changed = list(words)
            for place in rng.sample(range(60), rng.randint(0, 3)):
                changed[place] = f"x{rng.random()}"
            texts.append(" ".join(changed))
    return texts


def test_nearly_every_pair_that_is_similar_enough_is_found_and_no_other():
    texts = documents(400)
    sets = [shingles(text) for text in texts]
    wanted = {(i, j) for i, j in combinations(range(400), 2) if jaccard(sets[i], sets[j]) >= 0.8}
    found = {(i, j): similarity for i, j, similarity in near_duplicates(texts, texts, 0.8) if i < j}
    assert set(found) <= wanted and len(found) >= 0.97 * len(wanted) > 100
    assert all(found[i, j] == jaccard(sets[i], sets[j]) for i, j in found)


@pytest.mark.parametrize("similarity", [0.5, 0.8, 0.95])
def test_the_pairs_found_are_those_of_datasketchs_own_index(similarity):
    texts, references = documents(1200), documents(1200)[::3]
    sets, signatures = _signatures(references)
    index = _index(similarity)
    for place, signature in enumerate(signatures):
        index.insert(place, signature)
    wanted = [
        (i, j, found)
        for i, (own, signature) in enumerate(zip(*_signatures(texts), strict=True))
        for j in sorted(index.query(signature))
        if (found := jaccard(own, sets[j])) >= similarity
    ]
    assert list(near_duplicates(texts, references, similarity)) == wanted and len(wanted) > 300


def test_no_text_is_near_anything_without_references():
    assert list(near_duplicates(["a"], [], 0.8)) == list(near_duplicates([], ["a"], 0.8)) == []


def test_links_connect_what_is_near_directly_or_through_others():
    words = [f"w{i}" for i in range(60)]
    chain = [" ".join(words[i:] + [f"e{j}" for j in range(i)]) for i in (0, 4, 8)]
    assert jaccard(shingles(chain[0]), shingles(chain[2])) < 0.8
    assert sorted(linked_pairs([*chain, "alone"], 0.8)) == [(0, 1), (1, 2)]
    assert list(linked_pairs([], 0.8)) == []


def test_a_cluster_of_thousands_is_linked_in_seconds():
    words = " ".join(f"w{i}" for i in range(60))
    texts = [f"{words} n{i}" for i in range(3000)]
    assert len(list(linked_pairs(texts, 0.8))) == 2999
