"""Retrieval of prompts by replies: how well the prompt can be told from the reply.

The similarity of a reply and a prompt is the cosine of their binary TF-IDF vectors (Salton and
Buckley 1988). The weight of a word is log(prompts / prompts with the word), over the distinct
prompts of the evaluation themselves. A word of every prompt weighs nothing. No list of stop words
is needed, and no language is assumed.
"""

from collections import Counter

import numpy as np
from scipy.sparse import csr_matrix

from rlhf_core.evaluation.ngrams import words

CHANCE = 0.5
_ROWS = 512  # replies that are compared with all prompts at once


def ranks_of_prompts(prompts: list[str], replies: list[str]) -> np.ndarray:
    """Return for each reply the share of other prompts that are less similar than its own, (N,).

    A tie counts one half, so a reply that shares no word with any prompt has 0.5. Other prompts are
    those with another text; without any, the share is 0.5. Replies that are dealt to the prompts at
    random have a mean of 0.5. float64.
    """
    texts = {text: number for number, text in enumerate(dict.fromkeys(prompts))}
    if len(texts) < 2:
        return np.full(len(replies), CHANCE)
    own_N = np.array([texts[prompt] for prompt in prompts])
    weights_DV, vocabulary = _prompt_vectors(list(texts))
    replies_NV = _indicators([set(words(reply)) for reply in replies], vocabulary)
    ranks = []
    for start in range(0, len(replies), _ROWS):
        rows = slice(start, start + _ROWS)
        similarity_ND = (replies_NV[rows] @ weights_DV.T).toarray().round(9)
        own_N1 = np.take_along_axis(similarity_ND, own_N[rows, None], 1)
        below_N = (similarity_ND < own_N1).sum(1)
        ties_N = (similarity_ND == own_N1).sum(1) - 1  # without itself
        ranks.append((below_N + ties_N / 2) / (len(texts) - 1))
    return np.concatenate(ranks)


def _prompt_vectors(prompts: list[str]) -> tuple[csr_matrix, dict[str, int]]:
    """Return the prompts' vectors, (D, V), times the words' weights, and the words' columns.

    The product with a reply's indicators is the similarity, but for the reply's own length, which
    is the same for every prompt.
    """
    said = [set(words(prompt)) for prompt in prompts]
    counts = Counter(word for one in said for word in one)
    vocabulary = {word: column for column, word in enumerate(sorted(counts))}
    weight_V = np.log(len(prompts) / np.array([counts[word] for word in vocabulary]))
    vectors_DV = _indicators(said, vocabulary).multiply(weight_V).tocsr()
    length_D1 = np.sqrt(vectors_DV.multiply(vectors_DV).sum(1))
    scale_D1 = np.divide(1.0, length_D1, out=np.zeros_like(length_D1), where=length_D1 > 0)
    return vectors_DV.multiply(weight_V).multiply(scale_D1).tocsr(), vocabulary


def _indicators(said: list[set[str]], vocabulary: dict[str, int]) -> csr_matrix:
    """Return 1 where a text says a word of the vocabulary, (texts, V)."""
    columns = [sorted(vocabulary[word] for word in one if word in vocabulary) for one in said]
    flat = np.array([column for found in columns for column in found], dtype=np.int64)
    ends = np.cumsum([0, *map(len, columns)])
    return csr_matrix((np.ones(len(flat)), flat, ends), shape=(len(said), len(vocabulary)))
