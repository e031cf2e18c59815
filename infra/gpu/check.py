"""Check training on one GPU: speed, memory, the planner and resuming, in one table.

    .venv/stage/bin/python infra/gpu/check.py [--only NAME ...] [--device cpu] [--tiny] [--out FILE]

Parts: sft (MFU, planner, kernels, checkpoints), packing (ragged rows packed beside padded ones, a
group's prompt read once, and the kernels), logits (by chunks beside whole ones), ppo (ZeRO 0 and
2), resume (with dropout). It needs torch, transformers, peft and DeepSpeed, no vLLM and no network:
weights are random. --tiny has shapes for a CPU, so that the program cannot rot; its numbers say
nothing of a GPU. Exit code 1 where a goal is missed, 0 otherwise.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """A line of the table; met: None where no goal is set or the device cannot show it."""

    part: str
    what: str
    value: str
    goal: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Sizes:
    """The shapes of all parts.

    models: presets of the planner, or a tiny shape of the same family. rows, length: of an SFT
    step. hidden, vocabulary, positions, logits_mib: of the comparison of logits.
    """

    tiny: bool
    models: tuple[str, ...]
    rows: int
    length: int
    steps: int
    hidden: tuple[int, ...]
    vocabulary: int
    positions: int
    logits_mib: int
    limit: float = 0.35  # of the peak of whole logits, 4.0 x positions x vocabulary x 4 bytes


FULL = Sizes(False, ("qwen2.5-0.5b", "qwen2.5-1.5b"), 8, 1024, 5, (896, 2048), 150_000, 4096, 384)
CPU = Sizes(False, ("smollm2-135m",), 2, 128, 2, (64, 512), 150_000, 2048, 384)
TINY = Sizes(True, ("tiny",), 2, 32, 1, (16,), 4096, 256, 1, limit=1.0)


def main(words: list[str] | None = None) -> int:
    """Run the parts, print the table, write the JSON file; return 1 where a goal is missed."""
    options = _options(words)
    if options.device == "cpu":  # before torch and DeepSpeed are imported
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    sys.path.insert(0, str(ROOT / "infra" / "bench"))
    import stage_parts
    import torch
    import training_parts

    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: torch.cuda.is_available() is False; use --device cpu", file=sys.stderr)
        return 2
    sizes = TINY if options.tiny else FULL if options.device == "cuda" else CPU
    parts: dict[str, Callable[[Sizes], list[Row]]] = {
        "sft": training_parts.sft,
        "packing": training_parts.packing,
        "logits": training_parts.logits,
        "ppo": stage_parts.ppo,
        "resume": stage_parts.resume,
    }
    card = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    print(f"{card}, torch {torch.__version__}, {'tiny shapes' if options.tiny else 'full shapes'}")
    rows: list[Row] = []
    for name, run in parts.items():
        if not options.only or name in options.only:
            found = run(sizes)
            rows += found
            for row in found:
                print(_line(row), flush=True)
    if options.out:
        report = {"device": card, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
        Path(options.out).write_text(json.dumps(report, indent=2), encoding="utf-8")
    return int(any(row.met is False for row in rows))


def _line(row: Row) -> str:
    met = {None: "", True: "met", False: "MISSED"}[row.met]
    return f"{row.part:7} {row.what:44} {row.value:>34}  {row.goal:24} {met}".rstrip()


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="shapes that a CPU runs in seconds")
    parser.add_argument(
        "--only", action="append", choices=("sft", "packing", "logits", "ppo", "resume"), default=[]
    )
    parser.add_argument("--out", help="JSON file with all rows")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.modules["check"] = sys.modules["__main__"]  # the parts import Row from here
    sys.exit(main())
