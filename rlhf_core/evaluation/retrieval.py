"""Retrieval of prompts by replies: how well the prompt can be told from the reply.

The similarity of a reply and a prompt is the cosine of their binary TF-IDF vectors (Salton and
Buckley 1988). The weight of a word is log(prompts / prompts with the word), over the distinct
prompts of the evaluation themselves. A word of every prompt weighs nothing. No list of stop words
is needed, and no language is assumed.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from rlhf_core.evaluation.ngrams import words
from rlhf_core.statistics.clusters import Clusters
from rlhf_core.statistics.paired import bootstrap_mean, resampled_means

CHANCE = 0.5
SEED = 0  # of the resamples
_ROWS = 512  # replies that are compared with all prompts at once
_TAIL = 0.025  # of a two-sided interval of 95%


@dataclass(frozen=True)
class Loss:
    """The share of the SFT model's retrieval above chance that the policy has lost.

    value: the share, below 0 for a gain; None when the 95% interval of the SFT model's retrieval
    holds chance, because the share then says nothing. interval: 95% interval of the share; 0 to 1
    when it says nothing.
    """

    value: float | None
    interval: tuple[float, float]


def prompt_ranks(prompts: list[str], replies: list[str]) -> Tensor:
    """Return for each reply the share of other prompts that are less similar than its own, (N,).

    A tie counts one half, so a reply that shares no word with any prompt has 0.5. Other prompts are
    those with another text; without any, the share is 0.5. Replies that are dealt to the prompts at
    random have a mean of 0.5. float64.
    """
    texts = {text: number for number, text in enumerate(dict.fromkeys(prompts))}
    if len(texts) < 2:
        return torch.full((len(replies),), CHANCE, dtype=torch.float64)
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
    return torch.from_numpy(np.concatenate(ranks))


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


def retrieval_loss(ours_N: Tensor, theirs_N: Tensor, clusters: Clusters = None) -> Loss:
    """Return the loss of the policy's ranks compared with the SFT model's of the same prompts.

    loss = (mean theirs - mean ours) / (mean theirs - 0.5). Its interval is the percentile bootstrap
    over prompts; a resample in which the SFT model is at chance or below has lost nothing.
    clusters: the prompts of items that share one.
    """
    if bootstrap_mean(theirs_N, seed=SEED, clusters=clusters)[0] <= CHANCE:
        return Loss(None, (0.0, 1.0))
    ours_R, theirs_R = resampled_means(
        torch.stack([ours_N, theirs_N]), seed=SEED, clusters=clusters
    )
    above_R = theirs_R - CHANCE
    lost_R = torch.where(above_R > 0, (theirs_R - ours_R) / above_R.clamp(min=1e-9), 0.0)
    low, high = (float(lost_R.quantile(q)) for q in (_TAIL, 1 - _TAIL))
    sft = float(theirs_N.mean())
    return Loss((sft - float(ours_N.mean())) / (sft - CHANCE), (low, high))
