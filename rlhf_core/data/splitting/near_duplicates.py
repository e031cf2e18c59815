"""Near-duplicate texts: MinHash finds the candidates, the Jaccard similarity of shingles decides.

Source: Broder 1997, "On the resemblance and containment of documents"; index: Leskovec, Rajaraman,
Ullman, "Mining of Massive Datasets", ch. 3.4 (banding).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from datasketch import MinHash, MinHashLSH

WORDS = 3  # of a shingle
PERMUTATIONS = 128
# costs of false candidates and of misses, for the choice of bands: a false candidate costs time
# alone, because each one is verified. Texts at the threshold itself are found with probability 0.96
# or more (0.98 at 0.8: 17 bands of 7 rows), texts above it nearly always
_COSTS = (0.02, 0.98)
# a text with more candidates, all in one cluster, is not indexed: its neighbours stand for it
CROWDED = 200
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"  # scripts: a letter is a word
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def shingles(text: str) -> frozenset[str]:
    """Return the runs of three words of a text, its beginning and its end included.

    Case, punctuation, white space and forms of one letter (Unicode NFKC) do not count. A text
    without a word is its own shingle.
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    if not words:
        return frozenset([" ".join(text.split())])
    padded = ["", *words, ""]
    return frozenset(
        " ".join(padded[start : start + WORDS]) for start in range(max(1, len(padded) - WORDS + 1))
    )


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return |A and B| / |A or B| of two sets that are not both empty."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def linked_pairs(texts: Sequence[str], similarity: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of positions whose texts are near duplicates: enough to connect each cluster."""
    sets, signatures = _signatures(texts)
    index, cluster = _index(similarity), list(range(len(sets)))
    for place, signature in enumerate(signatures):
        candidates = sorted(index.query(signature))
        for other in candidates:
            ours, theirs = _top(cluster, place), _top(cluster, other)
            if ours != theirs and jaccard(sets[place], sets[other]) >= similarity:
                cluster[max(ours, theirs)] = min(ours, theirs)
                yield other, place
        tops = {_top(cluster, one) for one in (place, *candidates[:CROWDED])}
        if len(candidates) < CROWDED or len(tops) > 1:
            index.insert(place, signature)


def _top(cluster: list[int], place: int) -> int:
    while cluster[place] != place:
        cluster[place] = cluster[cluster[place]]
        place = cluster[place]
    return place


def near_duplicates(
    texts: Sequence[str], references: Sequence[str], similarity: float
) -> Iterator[tuple[int, int, float]]:
    """Yield (position, position among the references, similarity) of each near-duplicate pair.

    Those of one text come together, in the order of the references.
    """
    reference_sets, reference_signatures = _signatures(references)
    index = _index(similarity)
    for place, signature in enumerate(reference_signatures):
        index.insert(place, signature)
    sets, signatures = _signatures(texts)
    for place, signature in enumerate(signatures):
        for other in sorted(index.query(signature)):
            found = jaccard(sets[place], reference_sets[other])
            if found >= similarity:
                yield place, other, found


def _index(similarity: float) -> MinHashLSH:
    return MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS, weights=_COSTS)


def _signatures(texts: Iterable[str]) -> tuple[list[frozenset[str]], list[MinHash]]:
    sets = [shingles(text) for text in texts]
    if not sets:
        return [], []
    data = [[shingle.encode() for shingle in one] for one in sets]
    return sets, MinHash.bulk(data, num_perm=PERMUTATIONS, seed=1)
