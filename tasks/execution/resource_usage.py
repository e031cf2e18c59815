"""Resource usage of a stage's processes, sampled from outside into `system.jsonl`.

The file is beside the stage's metrics and is a spool like metrics.jsonl (same lines), so an
unreachable MLflow loses nothing. MLflow's own monitor would: it ends at the first failed request.
Names that MLflow uses for the whole machine are kept; its page shows them as system metrics.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import psutil

from rlhf_core.rundir import read_metrics

FILE = "system.jsonl"
EVERY_SECONDS = 2.0
LONGEST_GAP = 30.0  # seconds that a sample may stand for, on a machine too busy to take more
MIB = 2**20
STAGE_CPU, STAGE_GPUS = "system/stage_cpu_percentage", "system/stage_gpus"
STAGE_MEMORY, STAGE_GPU_MEMORY = "system/stage_memory_mib", "system/stage_gpu_memory_mib"


class ResourceSampler:
    """A sampler of a stage's process, its descendants and the machine.

    Call it often: it takes a sample every EVERY_SECONDS.
    """

    def __init__(self, pid: int, folder: Path):
        self.path = folder / FILE
        self._root = psutil.Process(pid)
        # cpu_percent counts from the same object's last call
        self._known: dict[int, psutil.Process] = {}
        self._gpus = _gpus()
        self._gpu_before = _gpu_used(self._gpus)
        self._step = len(read_metrics(self.path))  # a resumed stage goes on counting
        self._next = 0.0
        psutil.cpu_percent()

    def __call__(self) -> None:
        """Append a line when one is due. A process that ends in between is left out."""
        if time.monotonic() < self._next:
            return
        stage = self._processes()
        if not stage:  # it has ended, or its program is still being loaded
            return
        self._next = time.monotonic() + EVERY_SECONDS
        self._step += 1
        metrics = stage | _machine() | self._gpu_metrics()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"step": self._step, "time": time.time(), "metrics": metrics}) + "\n"
            )

    def _processes(self) -> dict[str, float]:
        cpu, memory = 0.0, 0
        try:
            alive = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return {}
        self._known = {process.pid: self._known.get(process.pid, process) for process in alive}
        for process in self._known.values():
            try:
                cpu += process.cpu_percent()
                memory += _resident(process)
            except psutil.Error:
                continue
        if memory < MIB:  # no program runs in less
            return {}
        return {STAGE_CPU: cpu, STAGE_MEMORY: memory / MIB}

    def _gpu_metrics(self) -> dict[str, float]:
        """Return the use of each device, and the stage's memory on all of them together, MiB.

        A container may hide which processes are the stage's. Then its memory is the growth of the
        memory in use since the stage began.
        """
        if not self._gpus:
            return {}
        metrics, own = {}, 0
        for index, gpu in enumerate(self._gpus):
            if rates := _ask("nvmlDeviceGetUtilizationRates", gpu):
                metrics[f"system/gpu_{index}_utilization_percentage"] = float(rates.gpu)
            metrics[f"system/gpu_{index}_memory_usage_megabytes"] = _gpu_used([gpu]) / 1e6
            running = _ask("nvmlDeviceGetComputeRunningProcesses", gpu) or []
            own += sum(
                process.usedGpuMemory or 0 for process in running if process.pid in self._known
            )
        metrics[STAGE_GPUS] = float(_visible(len(self._gpus)))
        return metrics | {
            STAGE_GPU_MEMORY: (own or max(0, _gpu_used(self._gpus) - self._gpu_before)) / MIB
        }


def _resident(process: psutil.Process) -> int:
    """Return the bytes in memory.

    Pages shared by several processes count once between them where the system knows (Linux: PSS).
    """
    full = process.memory_full_info()
    return getattr(full, "pss", 0) or full.rss


def _machine() -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
    }


def _gpus() -> list:
    """Return handles of the NVIDIA devices.

    There are none where the driver or its library (nvidia-ml-py) is missing.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        return [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
    except Exception:  # ImportError, or NVML's own errors, whose names need the library
        return []


def _visible(devices: int) -> int:
    """Return how many of the host's GPUs a stage may use, by CUDA_VISIBLE_DEVICES."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return devices
    return min(devices, len([name for name in named.split(",") if name.strip() not in ("", "-1")]))


def _ask(question: str, gpu: object) -> Any:
    """Return an NVML call's answer, None where the device or driver lacks it (MIG, old drivers)."""
    import pynvml

    try:
        return getattr(pynvml, question)(gpu)
    except pynvml.NVMLError:
        return None


def _gpu_used(gpus: list) -> int:
    """Return the bytes in use on the devices together."""
    return sum(memory.used for gpu in gpus if (memory := _ask("nvmlDeviceGetMemoryInfo", gpu)))


def read(folder: Path) -> list[dict]:
    """Return the complete lines of a run directory's samples."""
    file = folder / FILE
    data = file.read_bytes() if file.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def hours(folder: Path, start: int, end: int) -> dict[str, float]:
    """Return the processor and GPU hours that a stage took between two times, ms since the epoch.

    A processor hour is one core at work for an hour. A GPU hour is one GPU reserved for an hour,
    idle or not. Both are sums over samples; a gap of more than LONGEST_GAP between two of them, as
    between two attempts, counts as that long. {} without a sample in that time.
    """
    samples = [line for line in read(folder) if start <= line["time"] * 1000 <= end]
    if not samples:
        return {}
    times = [start / 1000, *(line["time"] for line in samples)]
    found = {"cpu_hours": 0.0}
    for before, line in zip(times, samples, strict=False):
        past = min(max(line["time"] - before, 0.0), LONGEST_GAP) / 3600
        found["cpu_hours"] += past * line["metrics"].get(STAGE_CPU, 0.0) / 100
        if gpus := line["metrics"].get(STAGE_GPUS):
            found["gpu_hours"] = found.get("gpu_hours", 0.0) + past * gpus
    return found


def costs(folder: Path) -> dict[str, float]:
    """Return a stage's seconds and its peaks of memory, MiB.

    A peak is the largest sample; a peak between two samples is missed.
    """
    result = folder / "result.json"
    values = (
        {"seconds": json.loads(result.read_text(encoding="utf-8"))["seconds"]}
        if result.exists()
        else {}
    )
    samples = [line["metrics"] for line in read(folder)]
    for name, metric in (
        ("peak_memory_mib", STAGE_MEMORY),
        ("peak_gpu_memory_mib", STAGE_GPU_MEMORY),
    ):
        if peaks := [sample[metric] for sample in samples if metric in sample]:
            values[name] = max(peaks)
    return values
