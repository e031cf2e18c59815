"""Garbage collection while a process imports its libraries."""

import gc

from rlhf_core.interpreter.rare_collection import RARE, collecting_rarely


def test_collections_are_rare_within_the_block_and_usual_after_it():
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        with collecting_rarely():
            assert gc.get_threshold() == RARE
            made = [[] for _ in range(1000)]
        assert gc.get_threshold() == usual and gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(made)
    finally:
        gc.unfreeze()
