"""Training comparisons with later labels after them, as sequences, and the weights of both."""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence
from rlhf_core.data.rows.lazy import Joined
from rlhf_core.engine.encoded import encoded_once, training_rows
from rlhf_core.reward.scoring import pair_sequences
from rlhf_core.rundir import Artifact, RunDir
from rlhf_core.stage_catalogue import NEW_TRAIN

Inputs = Mapping[str, Artifact]


@dataclass(frozen=True)
class TrainingPairs:
    """Comparisons, the new ones last.

    sequences: chosen and rejected in turn. new: the number of new rows.
    """

    rows: Seq[dict]
    sequences: Seq[Sequence]
    new: int


def pair_rows(inputs: Inputs, limit: int | None, *, seed: int) -> list[Seq[dict]]:
    """Return at most `limit` training comparisons, drawn by `seed`, and then all new ones, if any.

    Nothing is encoded yet.
    """
    limits = {"comparisons_train": limit, NEW_TRAIN: None}
    return [
        training_rows(inputs[split].path, most, seed=seed)
        for split, most in limits.items()
        if split in inputs
    ]


def training_pairs(
    run: RunDir,
    inputs: Inputs,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    *,
    seed: int,
    folder: str = "",
) -> TrainingPairs:
    """Return at most `limit` training comparisons, drawn by `seed`, and all new ones after them.

    folder: place of the token ids in the run directory's.
    """
    encode = partial(pair_sequences, tokenizer)
    rows, *later = pair_rows(inputs, limit, seed=seed)
    sequences = encoded_once(run.tokens / folder, rows, encode, Sequence)
    if not later:
        return TrainingPairs(rows, sequences, 0)
    (new,) = later
    of_new = encoded_once(run.tokens / NEW_TRAIN, new, encode, Sequence)
    return TrainingPairs(Joined([rows, new]), Joined([sequences, of_new]), len(new))


def pair_weights(pairs: int, new: int, new_weight: float) -> Tensor | float:
    """Return the weight of each of `pairs` comparisons, the last `new` of which are new, (N,).

    A new pair has new_weight times the weight of another one, and the mean of all is 1, so that the
    size of the steps does not depend on new_weight. 1.0 where all weigh the same.
    """
    if new_weight == 1.0 or not 0 < new < pairs:
        return 1.0
    weight_N = torch.ones(pairs)
    weight_N[pairs - new :] = new_weight
    return weight_N / weight_N.mean()
