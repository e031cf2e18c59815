"""The command that starts a stage: Python alone for one rank, a launcher for several.

The launcher is DeepSpeed's, or `tasks.execution.ray_cluster` on a Ray cluster.
"""

import base64
import glob
import json
import os
import socket
from pathlib import Path

from rlhf_core.config import Distributed
from rlhf_core.config.stage_configs import PPOStageConfig
from rlhf_core.errors import BadInput
from rlhf_core.ranks import DEVICES
from rlhf_core.rundir import StageSpec, write_atomically
from tasks.execution.stage_python import stage_python, stage_variables

BY_LAUNCHERS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_SIZE",
    "CROSS_RANK",
    "CROSS_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
PORT = 29500  # of rank 0, torch's usual one, where other hosts must know it
# DeepSpeed's runner writes variables that begin so into command lines, which every user of a host
# sees
SECRETS = "MLFLOW"
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "GX_ANALYTICS_ENABLED": "false",
}
# Threads that spin long at barriers slow two stages on one machine down twentyfold and more.
# Threads that sleep at once cost a stage that is alone a tenth. libgomp takes this count itself
# when it knows of more threads than cores.
ON_CPU = {"DS_ACCELERATOR": "cpu", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
_RANK = ("--module", "--no_local_rank", "--log_level=warning", "rlhf_core")


def command(spec: StageSpec, distributed: Distributed) -> tuple[str, ...]:
    """Return the command before STAGE SPEC RUN_DIR on this host, for a spec with ranks.

    Raises BadInput for more ranks than GPUs.
    """
    if distributed.hostfile is not None:
        return _over_hosts(distributed)
    if distributed.launcher == "ray":
        return on_ray(distributed)
    return (
        stage_python(),
        "-uP",  # P: a file of the current folder must not take a library's place
        "-m",
        "deepspeed.launcher.launch",
        f"--world_info={_world({'localhost': _devices(distributed, _own_devices(spec))})}",
        "--master_addr=127.0.0.1",
        f"--master_port={distributed.master_port or _free_port()}",
        *_RANK,
    )


def on_ray(distributed: Distributed) -> tuple[str, ...]:
    """Return the command of the program that places ranks on a Ray cluster."""
    settings = distributed.model_dump_json(exclude_defaults=True)
    return (stage_python(), "-uP", "-m", "tasks.execution.ray_cluster", settings)


def commands_for_other_hosts(
    spec: StageSpec, distributed: Distributed
) -> dict[str, tuple[str, ...]]:
    """Return the command of every host but the first, of a stage whose ranks start by hand."""
    if spec.ranks == 1 or distributed.launcher != "by_hand" or distributed.hostfile is None:
        return {}
    hosts = list(distributed.hosts)[1:]
    return {host: _over_hosts(distributed, number) for number, host in enumerate(hosts, start=1)}


def _own_devices(spec: StageSpec) -> int:
    """Return the number of devices that a stage's sampler needs beside those of the ranks."""
    config = spec.config
    return config.ppo.sampling.own_devices if isinstance(config, PPOStageConfig) else 0


def environment(ranks: int = 1) -> dict[str, str]:
    """Return the environment of a stage process, from this one's.

    It turns usage reports off, names the CPU where there is no GPU, and has the stage's log in
    UTF-8 whatever the locale.
    """
    cpu = {} if has_cuda() else ON_CPU
    own = os.environ | stage_variables() | {"PYTHONIOENCODING": "utf-8"}
    return variables(ranks, cpu | QUIET | own)


def variables(count: int, base: dict[str, str]) -> dict[str, str]:
    """Return a stage process's environment, from `base`.

    It leaves out variables of another launcher, and MLflow's, which a stage does not need. On a
    CPU the ranks share the cores. Where there are GPUs it names them all, since DeepSpeed's
    launcher shows the ranks only their own.
    """
    kept = {
        name: value
        for name, value in base.items()
        if name not in BY_LAUNCHERS and not name.startswith(SECRETS)
    }
    if has_cuda():
        kept[DEVICES] = ",".join(_visible())
    if count > 1 and not has_cuda():
        kept.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    return kept


def env_file(
    distributed: Distributed | None, run_dir: Path, settings: dict[str, str]
) -> dict[str, str]:
    """Write the environment of ranks on other hosts, and return the variable that names the file.

    The file is in the run directory; DeepSpeed's runner reads it. The runner hands on by itself
    only variables named NCCL..., PYTHON..., UCX... and MV2....
    """
    if distributed is None or distributed.hostfile is None:
        return {}
    path = run_dir / "launch.env"
    write_atomically(path, "".join(f"{name}={value}\n" for name, value in settings.items()))
    return {"DS_ENV_FILE": str(path)}


def has_cuda() -> bool:
    """Check whether an NVIDIA device is visible, without importing torch."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return not hidden and bool(glob.glob("/dev/nvidia[0-9]*") or glob.glob("/dev/dxg"))


def _over_hosts(distributed: Distributed, number: int = 0) -> tuple[str, ...]:
    """Return the command of DeepSpeed's runner, which starts its launcher on each host.

    When that is done by hand, it starts the launcher on this host alone.
    """
    assert distributed.hostfile is not None  # the callers ask only where there are several hosts
    hostfile = str(Path(distributed.hostfile).expanduser().resolve())
    address = [f"--master_addr={distributed.master_addr}"] if distributed.master_addr else []
    how = (
        ["--no_ssh", f"--node_rank={number}"]
        if distributed.launcher == "by_hand"
        else [f"--launcher={distributed.launcher}"]
    )
    runner = (stage_python(), "-uP", "-m", "deepspeed.launcher.runner", f"--hostfile={hostfile}")
    return (*runner, *how, *address, f"--master_port={distributed.master_port or PORT}", *_RANK)


def _devices(distributed: Distributed, own: int) -> list[str]:
    """Return the local device of each rank, beside the sampler's `own`.

    On a CPU only their number counts. Raises BadInput for more devices than there are.
    """
    if not has_cuda():
        return list(map(str, range(distributed.ranks)))
    devices = _visible()
    if distributed.ranks + own > len(devices):
        beside = f" and ppo.sampling.own_devices {own}" if own else ""
        raise BadInput(
            f"distributed.ranks is {distributed.ranks}{beside}, this machine shows {len(devices)}"
            " GPUs; expected one for each rank. Lower distributed.ranks, or name several hosts in"
            " distributed.hostfile."
        )
    return devices[: distributed.ranks]


def _visible() -> list[str]:
    """Return the GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else list(map(str, range(len(glob.glob("/dev/nvidia[0-9]*")))))


def _world(devices: dict[str, list[str]]) -> str:
    return base64.urlsafe_b64encode(json.dumps(devices).encode()).decode()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
