"""The prompts that an evaluation has looked at, as a sample by which two of them are compared."""

from collections.abc import Collection
from pathlib import Path

from rlhf_core.rundir import StageResult

SAMPLED = 100  # ids kept: two sets that share a tenth of their prompts share one of these


def looked_at(result: StageResult, run_dir: Path, benchmark: str | None = None) -> tuple[str, ...]:
    """Return the SAMPLED smallest ids of an evaluation's prompts, which are hashes.

    benchmark: the items of this benchmark in their place. Each has two ids, the digests of its row
    and of its text, of which the SAMPLED smallest are kept each: neither another wording of the
    task file nor a further column of its data makes other items of them.

    So the sample of a set and that of nearly the same set are nearly the same (bottom-k sketch,
    Cohen and Kaplan 2007). Sets that share a tenth of all their prompts have a sampled one in
    common with a probability above 0.9999. Empty for an evaluation whose items name no prompts.
    """
    # half a second, which reading a ledger need not wait for
    import pyarrow.parquet as pq

    from rlhf_core.evidence.items import BENCHMARK, TARGET, item_id, read_columns

    path = run_dir / result.files["items"] if "items" in result.files else None
    wanted = {"prompt_id"} if benchmark is None else {"prompt_id", BENCHMARK}
    if path is None or not wanted <= set(pq.read_schema(path).names):
        return ()
    if benchmark is None:
        return sampled(read_columns(path, ["prompt_id"])["prompt_id"].to_pylist())
    asked = read_columns(path, ["prompt_id", "prompt", TARGET], benchmark).to_pylist()
    rows = sampled([row["prompt_id"].rpartition("/")[2] for row in asked])
    return rows + sampled([item_id(row["prompt"], "\n", row[TARGET]) for row in asked])


def sampled(ids: Collection[str]) -> tuple[str, ...]:
    """Return the SAMPLED smallest of the different ids."""
    return tuple(sorted(set(ids))[:SAMPLED])


def share_prompts(first: Collection[str], second: Collection[str]) -> bool:
    """Return True when two samples have a prompt in common."""
    return not set(first).isdisjoint(second)
