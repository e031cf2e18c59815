"""Time and memory of a reward stage's token ids: lists in each rank, and Arrow files for all ranks.

    .venv/stage/bin/python infra/bench/encode_pairs.py [PAIRS]

Writes pairs as `make bench-data` does, and encodes them twice in a process of its own: as Python
lists, as every rank had them before, and by `encoded_once`, as the stages do. Prints seconds, and
the process's private memory (RssAnon of /proc/self/status) above that before.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from validate_pairs import write_model, write_rows

READS = 10_000


def main(words: list[str] | None = None) -> None:
    """Measure both forms, each in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", type=int, nargs="?", default=100_000)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.form:
        measure(options.folder, options.form)
        return
    with tempfile.TemporaryDirectory(prefix="bench-encode-") as temporary:
        folder = Path(temporary)
        write_rows(folder, options.pairs)
        write_model(folder)
        write_split(folder)
        for form in FORMS:
            command = [sys.executable, __file__, "--form", form, "--folder", str(folder)]
            subprocess.run(command, check=True)


def write_split(folder: Path) -> None:
    """Write the pairs in the form of a split."""
    from rlhf_core.data.splits import prompt_record, save_split

    with (folder / "comparisons.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    save_split(
        folder / "split.jsonl",
        (row | prompt_record([{"role": "user", "content": row["prompt"]}]) for row in rows),
    )


def measure(folder: Path, form: str) -> None:
    """Print what one form takes."""
    from rlhf_core.data.tokenizer import load_tokenizer
    from rlhf_core.engine.encoded import training_rows
    from rlhf_core.reward.scoring import pair_sequences

    tokenizer = load_tokenizer(folder / "model")
    encode = partial(pair_sequences, tokenizer)
    encode(training_rows(folder / "split.jsonl", 1, seed=1))  # imports, first use
    before, began = _private_mib(), time.monotonic()
    sequences = FORMS[form](folder, encode)
    seconds, taken = time.monotonic() - began, _private_mib() - before
    began = time.monotonic()
    for place in range(0, len(sequences), max(1, len(sequences) // READS)):
        sequences[place]
    read = time.monotonic() - began
    print(
        f"{form}: {len(sequences) // 2} pairs in {seconds:.1f} s, {taken} MiB of private memory;"
        f" {READS} sequences read in {read:.2f} s",
        flush=True,
    )


def _lists(folder: Path, encode: Callable) -> list:
    from rlhf_core.data.splits import load_split

    return encode(list(load_split(folder / "split.jsonl")))


def _arrow(folder: Path, encode: Callable) -> object:
    from rlhf_core.batching.batch import Sequence
    from rlhf_core.engine.encoded import encoded_once, training_rows

    rows = training_rows(folder / "split.jsonl", None, seed=1)
    return encoded_once(folder / "tokens", rows, encode, Sequence)


def _private_mib() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0]) // 1024


FORMS = {"lists": _lists, "arrow": _arrow}

if __name__ == "__main__":
    main()
