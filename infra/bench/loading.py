"""Peak main memory of ranks that load a model and build an engine, all ranks together.

    .venv/stage/bin/python infra/bench/loading.py [--ranks 2] [--zero 3] [--layers 30] [--step]
                                                  [--frozen] [--only mapped]

A random Llama like SmolLM2-135M (or with other --layers, --hidden) is saved in bfloat16. Both ways
to load run in turn, each in new processes: `whole` reads a float32 model on every rank, `mapped`
leaves the weights in their files. PSS counts a page that N processes share as 1/N for each.
With --frozen the model does not learn, and is whole on every rank with matrices in bfloat16.
"""

import argparse
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POLL_SECONDS = 0.02
WAYS = ("whole", "mapped")
FROZEN = """
import sys
from pathlib import Path
from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.engine.bootstrap import init_distributed
from rlhf_core.modeling.models import inference, load_policy
init_distributed()
print("libraries", flush=True)
sys.stdin.readline()
model = load_policy(Path(sys.argv[1]), mapped=sys.argv[3] == "mapped")
forward = inference(model, dtype="bfloat16", weights=None)
print("taken", flush=True)
sys.stdin.readline()
for _ in range(2):
    forward(collate([Sequence([7], [8, 9])], 0))
print("loaded", flush=True)
sys.stdin.readline()
"""
RANK = """
import sys, torch
from pathlib import Path
from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import SFT
from rlhf_core.engine.bootstrap import init_distributed
from rlhf_core.engine.deepspeed import DeepSpeedEngine, deepspeed_config, divide
from rlhf_core.modeling.models import load_policy
folder, zero, mapped, step = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "mapped", sys.argv[4]
init_distributed()
print("libraries", flush=True)
sys.stdin.readline()
model = load_policy(Path(folder), mapped=mapped)
if zero == 3 and mapped:
    divide(model, deepspeed_config(SFT(zero_stage=3), "float32"))
elif zero == 3:
    from deepspeed.runtime.zero import Init
    Init(module=model, config_dict_or_path=deepspeed_config(SFT(zero_stage=3), "float32"))
print("taken", flush=True)
sys.stdin.readline()
engine = DeepSpeedEngine(model, SFT(zero_stage=zero), dtype="float32")
if step == "step":
    engine.backward(engine(collate([Sequence([7], [8, 9])], 0)).square().mean())
    engine.step(1e-5)
print("loaded", flush=True)
sys.stdin.readline()
"""


def make(folder: Path, layers: int, hidden: int) -> int:
    """Save a random model; return its parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def pss(pids: list[int]) -> int:
    """Return the proportional set size of some processes, bytes."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def measured(folder: Path, options: argparse.Namespace, how: str) -> tuple[int, list[int], float]:
    """Return the bytes of the libraries, two peaks above them, and the seconds to the first.

    The first peak ends when each rank has taken its part of the weights, the second when the engine
    is built, with AdamW's state.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    step = "step" if options.step else "none"
    program = FROZEN if options.frozen else RANK
    command = [sys.executable, "-c", program, str(folder), str(options.zero), how, step]
    started = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env=os.environ
            | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(options.ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "DS_ACCELERATOR": "cpu",
                "OMP_NUM_THREADS": "1",
                "MALLOC_MMAP_THRESHOLD_": "65536",
            },
        )
        for rank in range(options.ranks)
    ]
    pids = [process.pid for process in started]
    for process in started:
        _read_until(process, "libraries")
    libraries = pss(pids)
    began = time.monotonic()
    for process in started:
        _go_on(process)
    peaks = [_peak_until("taken", started) - libraries]
    seconds = time.monotonic() - began
    for process in started:
        _go_on(process)
    peaks.append(max(peaks[0], _peak_until("loaded", started) - libraries))
    for process in started:
        _go_on(process)
    for process in started:
        process.wait()
    return libraries, peaks, seconds


def _peak_until(word: str, started: list[subprocess.Popen]) -> int:
    """Return the largest PSS of all processes until each has printed `word`, bytes."""
    waiting, peak = {process.stdout for process in started}, 0
    while waiting:
        peak = max(peak, pss([process.pid for process in started]))
        for output in select.select(waiting, [], [], 0)[0]:
            if word in output.readline():
                waiting.discard(output)
        if any(process.poll() is not None for process in started):
            raise SystemExit(f"a rank ended with {[process.poll() for process in started]}")
        time.sleep(POLL_SECONDS)
    return peak


def _read_until(process: subprocess.Popen, word: str) -> None:
    while word not in (line := process.stdout.readline()):
        if not line:
            raise SystemExit(f"a rank ended with {process.wait()}")


def _go_on(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def main() -> None:
    """Print one line per way to load."""
    parser = argparse.ArgumentParser()
    for name, value in {"ranks": 2, "zero": 3, "layers": 30, "hidden": 576}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--step", action="store_true", help="take one step of AdamW too")
    parser.add_argument("--frozen", action="store_true", help="a model that does not learn")
    parser.add_argument("--only", choices=WAYS, help="one way, where memory is short")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = make(Path(folder), options.layers, options.hidden)
        print(f"{count / 1e6:.0f}M parameters, {2 * count / 2**20:.0f} MiB in bfloat16")
        for how in [options.only] if options.only else WAYS:
            libraries, peaks, seconds = measured(Path(folder), options, how)
            taken, built = (f"{peak / (2 * count):.2f}" for peak in peaks)
            print(
                f"{how:7} peak until the weights are taken {taken}, until the engine is built"
                f" (frozen: two passes) {built} x the bfloat16 size; {seconds:.1f} s;"
                f" libraries {libraries / 2**20:,.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
