"""`make bench-data`: time and memory of the validate stage on pairs of 500 characters.

    .venv/stage/bin/python infra/bench/validate_pairs.py [PAIRS ...] [--model FOLDER]
                                                         [--keep FOLDER]

Writes the pairs (a prompt of 100 characters and two answers of 200, English words at random), runs
the stage on them in a process of its own, and prints seconds and peak memory of each part. The goal
is 1,000,000 pairs in 6 minutes and 4 GiB. Without --model the tokenizer is a byte-level BPE of
16,000 tokens that is trained on the text. What came out: infra/docs/results/speed.md.
"""

import argparse
import functools
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LENGTHS = {"prompt": 100, "chosen": 200, "rejected": 200}  # characters
DEMONSTRATIONS = 1000
GOAL_ROWS, GOAL_SECONDS, GOAL_GIB = 1_000_000, 360.0, 4.0
# functions of rlhf_core.validate, by what they do
PARTS = {
    "read_source": "read the files",
    "build_table": "normalise",
    "apply_row_rules": "count tokens, row rules",
    "assign_splits": "split",
    "quarantine_leaks": "leaks",
    "note_near_duplicates": "near duplicates",
    "make_splits": "collect the splits",
    "_write_rows": "write splits and quarantine",
    "make_report": "report, Great Expectations",
    "validation_metrics": "metrics",
}


def main(words: list[str] | None = None) -> int:
    """Measure each number of pairs; return 1 if a stage failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", type=int, nargs="*", default=[20_000, 100_000])
    parser.add_argument("--model", type=Path, help="a model folder, for its tokenizer")
    parser.add_argument("--keep", type=Path, help="keep the files in this folder")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="bench-data-") as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        for pairs in options.pairs:
            place = folder / str(pairs)
            write_rows(place, pairs)
            model = (options.model or write_model(place)).resolve()
            if not _measure(place, model, pairs):
                return 1
    return 0


def write_rows(folder: Path, pairs: int) -> None:
    """Write demonstrations.jsonl and comparisons.jsonl; the same number gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = _texts()
    with (folder / "comparisons.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(pairs):
            row = {column: draw(length) for column, length in LENGTHS.items()}
            file.write(json.dumps(row) + "\n")
    with (folder / "demonstrations.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(DEMONSTRATIONS):
            row = {"prompt": draw(LENGTHS["prompt"]), "response": draw(LENGTHS["chosen"])}
            file.write(json.dumps(row) + "\n")


def _texts() -> Callable[[int], str]:
    """Return a function that draws a text of so many characters: words as often as in English."""
    from pydoc_data.topics import topics

    words = re.findall(r"[A-Za-z]+[.,;:]?", " ".join(topics[name] for name in sorted(topics)))
    rng = random.Random(1)

    def draw(length: int) -> str:
        return " ".join(rng.choices(words, k=length // 3))[:length].strip().ljust(length, "s")

    return draw


def write_model(folder: Path) -> Path:
    """Write a tokenizer that was trained on the rows, and a model of one tiny layer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    with (folder / "demonstrations.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["response"] for line in file]
    trainer = trainers.BpeTrainer(
        vocab_size=16_000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), **shape, **heads)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def _measure(folder: Path, model: Path, pairs: int) -> bool:
    """Run the stage in a process of its own, and print its parts; return True if it passed."""
    load = os.getloadavg()[0]
    command = [sys.executable, __file__, "--stage", str(folder), str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        out, _ = process.communicate()
    if process.returncode:
        print(f"{pairs:,} pairs: the stage failed with exit code {process.returncode}")
        return False
    parts = [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")]
    print(f"{pairs:,} pairs, load average before: {load:.1f}, {os.cpu_count()} cores")
    for line in _table(parts, pairs):
        print(line)
    return True


def _table(parts: list[dict[str, Any]], pairs: int) -> Iterator[str]:
    """Yield the lines of the table; the ratio is to the goal, time in proportion to the rows."""
    total = parts[-1]
    form = "{:<30} {:>9} {:>9} {:>9} {:>11} {:>9}"
    yield form.format("part", "seconds", "CPU s", "share", "peak GiB", "of goal")
    for part in parts:
        of_goal = part["seconds"] / pairs * GOAL_ROWS / GOAL_SECONDS
        share = f"{part['seconds'] / total['seconds']:.0%}"
        seconds, cpu = f"{part['seconds']:.1f}", f"{part['cpu']:.1f}"
        yield form.format(
            part["part"], seconds, cpu, share, f"{part['peak']:.2f}", f"{of_goal:.2f}"
        )
    yield f"peak memory: {total['peak']:.2f} GiB, {total['peak'] / GOAL_GIB:.2f} of the goal"


def _stage(folder: Path, model: Path) -> None:
    """Run the validate stage in this process; write a line of JSON per part."""
    from rlhf_core import validate
    from rlhf_core.__main__ import run_stage
    from rlhf_core.config import Data
    from rlhf_core.rundir import Artifact, RunDir, StageSpec

    for name, part in PARTS.items():
        setattr(validate, name, _timed(part, getattr(validate, name)))
    paths = {name: folder / f"{name}.jsonl" for name in ("demonstrations", "comparisons")}
    inputs = {name: Artifact.of(path) for name, path in {"model": model, **paths}.items()}
    data = Data.model_validate({name: str(path) for name, path in paths.items()})
    spec: StageSpec = StageSpec(
        stage="validate",
        seed=1,
        config={"data": data.model_dump(mode="json")},
        code="bench",
        inputs=inputs,
    )
    run = RunDir(folder / f"run-{os.getpid()}")
    _timed("whole stage", run_stage)(spec, run)


def _timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function; each call of half a second or more writes a line."""

    @functools.wraps(function)
    def measured(*arguments: Any, **options: Any) -> Any:
        start, cpu = time.monotonic(), time.process_time()
        result = function(*arguments, **options)
        seconds, used = time.monotonic() - start, time.process_time() - cpu
        if seconds >= 0.5 or part == "whole stage":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            line = {"part": part, "seconds": seconds, "cpu": used, "peak": peak}
            print(json.dumps(line), flush=True)
        return result

    return measured


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stage"]:
        _stage(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(main())
