"""Near-duplicate texts: MinHash finds the candidates, the Jaccard similarity of shingles decides.

Source: Broder 1997, "On the resemblance and containment of documents"; index: Leskovec, Rajaraman,
Ullman, "Mining of Massive Datasets", ch. 3.4 (banding).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from datasketch import MinHash, MinHashLSH

WORDS = 3  # of a shingle
PERMUTATIONS = 128
# costs of false candidates and of misses, for the choice of bands: a false candidate costs time
# alone, because each one is verified. Texts at the threshold itself are found with probability 0.96
# or more (0.98 at 0.8: 17 bands of 7 rows), texts above it nearly always
_COSTS = (0.02, 0.98)
# a text with more candidates, all in one cluster, is not indexed: its neighbours stand for it
CROWDED = 200
_BATCH = 1000  # texts whose signatures are in memory at once
_SETS = 10_000  # references whose shingles are kept after a look at them
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
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
    """Yield pairs of positions whose texts are near duplicates: enough to connect each cluster.

    All texts are in memory with their shingles and signatures: about 10 KB for a text of 500
    characters.
    """
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
    yield from ReferenceTexts(references, similarity).near(texts)


class ReferenceTexts:
    """Texts to which others may be near: bands of their signatures, in sorted order.

    A reference takes 12 bytes per band (about 20 bands) and its text. Texts are looked up in
    batches, and nothing is kept of them.
    """

    def __init__(self, texts: Iterable[str], similarity: float) -> None:
        self.texts = list(texts)
        self.similarity = similarity
        index = _index(similarity)
        self._bands, self._rows = index.b, index.r
        keys = [self._keys(signatures) for _, signatures in _batches(self.texts)]
        keys_BM = np.concatenate(keys, axis=1) if keys else np.empty((self._bands, 0), np.uint64)
        self._order_BM = np.argsort(keys_BM, axis=1, kind="stable").astype(np.uint32)
        self._keys_BM = np.take_along_axis(keys_BM, self._order_BM.astype(np.int64), axis=1)
        self._shingles = lru_cache(maxsize=_SETS)(self._shingles_of)

    def near(self, texts: Sequence[str]) -> Iterator[tuple[int, int, float]]:
        """Yield (position, position among the references, similarity), by text, then reference."""
        if not self.texts:
            return
        start = 0
        for sets, signatures in _batches(texts):
            for place, candidates in self._candidates(signatures):
                for other in candidates:
                    found = jaccard(sets[place], self._shingles(other))
                    if found >= self.similarity:
                        yield start + place, other, found
            start += len(sets)

    def _candidates(self, signatures_NP: np.ndarray) -> Iterator[tuple[int, list[int]]]:
        """Yield each text with the references that share a band with it, in order."""
        found: dict[int, set[int]] = {}
        for band, keys_N in enumerate(self._keys(signatures_NP)):
            low_N = np.searchsorted(self._keys_BM[band], keys_N, side="left")
            high_N = np.searchsorted(self._keys_BM[band], keys_N, side="right")
            for place in np.flatnonzero(high_N > low_N).tolist():
                shared = self._order_BM[band, low_N[place] : high_N[place]]
                found.setdefault(place, set()).update(shared.tolist())
        yield from ((place, sorted(found[place])) for place in sorted(found))

    def _keys(self, signatures_NP: np.ndarray) -> np.ndarray:
        """Return a key of each band of each signature, (bands, N).

        Two bands of equal keys are unequal with probability 2^-64; a candidate is verified anyway.
        """
        used = signatures_NP[:, : self._bands * self._rows].astype(np.uint64)
        bands_NBR = used.reshape(len(used), self._bands, self._rows)
        keys_NB = np.zeros(bands_NBR.shape[:2], np.uint64)
        for row in range(self._rows):
            keys_NB = (keys_NB ^ bands_NBR[:, :, row]) * _MULTIPLIER
            keys_NB ^= keys_NB >> np.uint64(29)
        return keys_NB.T

    def _shingles_of(self, place: int) -> frozenset[str]:
        return shingles(self.texts[place])


def _index(similarity: float) -> MinHashLSH:
    return MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS, weights=_COSTS)


def _batches(texts: Sequence[str]) -> Iterator[tuple[list[frozenset[str]], np.ndarray]]:
    """Yield the shingles and the signatures, (N, PERMUTATIONS), of each batch of texts."""
    for start in range(0, len(texts), _BATCH):
        sets, signatures = _signatures(texts[start : start + _BATCH])
        yield sets, np.stack([one.hashvalues for one in signatures])


def _signatures(texts: Iterable[str]) -> tuple[list[frozenset[str]], list[MinHash]]:
    sets = [shingles(text) for text in texts]
    if not sets:
        return [], []
    data = [[shingle.encode() for shingle in one] for one in sets]
    return sets, MinHash.bulk(data, num_perm=PERMUTATIONS, seed=1)
