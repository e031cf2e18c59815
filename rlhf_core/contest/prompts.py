"""The prompts that an evaluation has looked at, as a sample by which two of them are compared."""

from collections.abc import Collection
from pathlib import Path

from rlhf_core.rundir import StageResult

SAMPLED = 100  # ids kept: two sets that share a tenth of their prompts share one of these


def looked_at(result: StageResult, run_dir: Path) -> tuple[str, ...]:
    """Return the SAMPLED smallest ids of an evaluation's prompts, which are hashes.

    So the sample of a set and that of nearly the same set are nearly the same (bottom-k sketch,
    Cohen and Kaplan 2007). Sets that share a tenth of all their prompts have a sampled one in
    common with a probability above 0.9999. Empty for an evaluation whose items name no prompts.
    """
    import pyarrow.parquet as pq  # half a second, which reading a ledger need not wait for

    path = run_dir / result.files["items"] if "items" in result.files else None
    if path is None or "prompt_id" not in pq.read_schema(path).names:
        return ()
    return sampled(pq.read_table(path, columns=["prompt_id"])["prompt_id"].to_pylist())


def sampled(ids: Collection[str]) -> tuple[str, ...]:
    """Return the SAMPLED smallest of the different ids."""
    return tuple(sorted(set(ids))[:SAMPLED])


def share_prompts(first: Collection[str], second: Collection[str]) -> bool:
    """Return True when two samples have a prompt in common."""
    return not set(first).isdisjoint(second)
