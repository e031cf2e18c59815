"""Which process of the run this is. A launcher says so in the environment; without one there is a
single rank.

Standard library only: the run directory must know who writes to it before torch is loaded.
"""

import os

# environment variable: this host's GPUs, of which a launcher shows the ranks only theirs
DEVICES = "RLHF_DEVICES"


def rank() -> int:
    """This process's number over all hosts, from 0."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """Processes of the run, over all hosts."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_rank_zero() -> bool:
    """Whether this is rank 0, which alone writes metrics, models and results."""
    return rank() == 0


def rank_slice(count: int, *, group: int = 1) -> slice:
    """The part of `count` items that falls to this rank, or to the `group` neighbouring ranks that
    do their part together.
    """
    own, groups = rank() // group, ranks() // group
    return slice(count * own // groups, count * (own + 1) // groups)
