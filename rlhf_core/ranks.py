"""The rank of this process in the run, and the number of ranks.

A launcher states both in the environment. Without a launcher there is a single rank. Only the
standard library is used, because the run directory must know its writer before torch is loaded.
"""

import os

# environment variable with all GPUs of this host; a launcher shows each rank only its own
DEVICES = "RLHF_DEVICES"


def rank() -> int:
    """Return the number of this process over all hosts, from 0."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """Return the number of processes of the run, over all hosts."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_rank_zero() -> bool:
    """Return True on rank 0, the only one that writes metrics, models and results."""
    return rank() == 0


def rank_slice(count: int, *, group: int = 1) -> slice:
    """Return the part of `count` items that belongs to this rank.

    With `group` > 1, that many neighbouring ranks share one part.
    """
    own, groups = rank() // group, ranks() // group
    return slice(count * own // groups, count * (own + 1) // groups)
