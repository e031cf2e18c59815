"""Resource usage of a stage's processes, sampled from outside into `system.jsonl`.

The file is beside the stage's metrics and is a spool like metrics.jsonl (same lines), so an
unreachable MLflow loses nothing. MLflow's own monitor would: it ends at the first failed request.
Names that MLflow uses for the whole machine are kept; its page shows them as system metrics.
"""

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from rlhf_core.rundir import read_metrics
from tasks.execution.energy import (
    CPU,
    GPU,
    EnergyCounter,
    EnergyMeter,
    chosen_gpus,
    processor_counters,
)

FILE = "system.jsonl"
EVERY_SECONDS = 2.0
LONGEST_GAP = 30.0  # seconds that a sample may stand for, on a machine too busy to take more
MIB = 2**20
STAGE_CPU, STAGE_GPUS = "system/stage_cpu_percentage", "system/stage_gpus"
GPU_ENERGY, PROCESSOR_ENERGY = "system/stage_gpu_joules", "system/processor_joules"
STAGE_MEMORY, STAGE_GPU_MEMORY = "system/stage_memory_mib", "system/stage_gpu_memory_mib"


class ResourceSampler:
    """A sampler of a stage's process, its descendants and the machine.

    Call it often: it takes a sample every EVERY_SECONDS.
    """

    def __init__(self, pid: int, folder: Path, energy: EnergyMeter | None = None):
        """Sample the process `pid`, which has just started. energy: by default, this machine's."""
        self.path = folder / FILE
        self._root = psutil.Process(pid)
        # cpu_percent counts from the same object's last call
        self._known: dict[int, psutil.Process] = {}
        self._gpus = _gpus()
        self._gpu_before = _gpu_used(self._gpus)
        self._energy = energy or EnergyMeter([*_gpu_counters(self._gpus), *processor_counters()])
        self._step = len(read_metrics(self.path))  # a resumed stage goes on counting
        self._next, self._sampled = 0.0, time.monotonic()
        psutil.cpu_percent()

    def __call__(self) -> None:
        """Append a line when one is due. A process that ends in between is left out."""
        if time.monotonic() < self._next:
            return
        stage = self._processes()
        if not stage:  # it has ended, or its program is still being loaded
            return
        self._next = time.monotonic() + EVERY_SECONDS
        self._write(stage | _machine() | self._gpu_metrics())

    def end(self) -> None:
        """Append the time since the last sample, of which the processor's part is not known."""
        self._write({STAGE_GPUS: float(_visible(len(self._gpus)))} if self._gpus else {})

    def _write(self, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        seconds, self._sampled = now - self._sampled, now
        self._step += 1
        joules = self._energy()
        for kind, name in ((GPU, GPU_ENERGY), (CPU, PROCESSOR_ENERGY)):
            metrics |= {name: joules[kind]} if kind in joules else {}
        line = {
            "step": self._step,
            "time": time.time(),
            "seconds": round(seconds, 3),
            "metrics": metrics,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

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


def _gpu_counters(gpus: list) -> list[EnergyCounter]:
    """Return the energy counters of the GPUs that a stage may use; none where one has none."""
    if not gpus:
        return []
    names = [str(_ask("nvmlDeviceGetUUID", gpu)) for gpu in gpus]
    found = [EnergyCounter(GPU, partial(_joules, gpus[i])) for i in chosen_gpus(names) or []]
    return found if all(counter.read() is not None for counter in found) else []


def _joules(gpu: object) -> float | None:
    """Return the energy that a GPU has used since its driver was loaded."""
    millijoules = _ask("nvmlDeviceGetTotalEnergyConsumption", gpu)
    return None if millijoules is None else millijoules / 1000


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
