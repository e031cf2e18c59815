"""Token ids of a split: encoded once, each rank a share, and read by all ranks from Arrow files.

The files are in the run directory and mapped into memory, so that the ids are in the page cache of
the host, which its ranks share. A stage that is resumed finds them there.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from rlhf_core.batching.batch import Sequence, TrainedSequence, places
from rlhf_core.batching.collective import barrier, gathered
from rlhf_core.batching.microbatches import Size
from rlhf_core.data.rows.lazy import LazySequence
from rlhf_core.data.rows.split_file import SplitFile
from rlhf_core.data.splits import load_split
from rlhf_core.engine.bootstrap import init_distributed
from rlhf_core.ranks import rank, rank_slice, ranks
from rlhf_core.rundir import replacing

BATCH = 1000  # rows that are encoded together
_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema([("prompt", _IDS), ("response", _IDS), ("trained", pa.list_(pa.bool_()))])
SequenceT = TypeVar("SequenceT", bound=Sequence)


class EncodedSequences(LazySequence[SequenceT]):
    """The sequences of Arrow files, in their order."""

    def __init__(self, files: Seq[Path], kind: type[SequenceT]):
        self._kind = kind
        tables = [pa.ipc.open_file(pa.memory_map(str(file))) for file in files]
        self._batches = [
            table.get_batch(n) for table in tables for n in range(table.num_record_batches)
        ]
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def sizes(self) -> Iterator[Size]:
        """Prompt and response tokens of each sequence, without a look at the ids."""
        for batch in self._batches:
            prompts, responses = (
                batch.column(name).value_lengths().to_pylist() for name in ("prompt", "response")
            )
            yield from zip(prompts, responses, strict=True)

    def item(self, index: int) -> SequenceT:
        """Return a sequence."""
        number = bisect_right(self._ends, index)
        batch = self._batches[number]
        row = index - self._ends[number] + batch.num_rows
        prompt, response, trained = (column[row].as_py() for column in batch.columns)
        known = () if trained is None else (trained,)
        return self._kind(prompt, response, *known)


def training_rows(file: Path, limit: int | None, *, seed: int) -> SplitFile:
    """Return at most `limit` rows of a split, which keep their order, drawn by `seed`."""
    rows = load_split(file)
    return rows.at(places(len(rows), limit, seed=seed))


def encoded_once(
    folder: Path,
    rows: Seq[dict],
    encode: Callable[[Seq[dict]], Seq[SequenceT]],
    kind: type[SequenceT],
) -> EncodedSequences[SequenceT]:
    """Return the sequences of all rows in their order, encoded by all ranks together.

    folder: the run directory's, which the ranks share. encode: gives the sequences, of this kind,
    of some neighbouring rows. Every rank takes part.
    """
    if ranks() > 1:
        init_distributed()
    files = [folder / f"{one:05d}-of-{ranks():05d}.arrow" for one in range(ranks())]
    if not all(gathered(files[rank()].exists())):
        folder.mkdir(parents=True, exist_ok=True)
        _write(files[rank()], _share(rows), encode)
        barrier()
    return EncodedSequences(files, kind)


def _share(rows: Seq[dict]) -> Iterator[Seq[dict]]:
    """Yield this rank's rows, a batch at a time; the ranks' shares follow each other."""
    own = rank_slice(len(rows))
    for start in range(own.start, own.stop, BATCH):
        yield rows[start : min(start + BATCH, own.stop)]


def _write(
    file: Path, batches: Iterator[Seq[dict]], encode: Callable[[Seq[dict]], Seq[Sequence]]
) -> None:
    with replacing(file) as temporary, pa.ipc.new_file(str(temporary), _SCHEMA) as writer:
        for rows in batches:
            writer.write_batch(_batch(encode(rows)))


def _batch(sequences: Seq[Sequence]) -> pa.RecordBatch:
    columns = [
        [s.prompt for s in sequences],
        [s.response for s in sequences],
        [s.trained if isinstance(s, TrainedSequence) else None for s in sequences],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)]
    return pa.record_batch(arrays, schema=_SCHEMA)
