"""A batch of three sequences of unequal length."""

from rlhf_core.batching.batch import Sequence, collate

BATCH = collate(
    [
        Sequence([5, 6, 7], [8, 9, 1]),
        Sequence([5], [10, 1]),
        Sequence([11, 12], [13, 14, 15, 16, 1]),
    ],
    0,
)
