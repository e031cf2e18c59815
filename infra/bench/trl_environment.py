"""TRL's own environment, .venv/stage/bench: TRL alone, over the project's torch and transformers.

requirements.txt and requirements-ppo.txt pin its versions: the last that has a PPOTrainer is older.
Nothing of it is visible to the project.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
TRIALS = {  # what must be importable, by stage
    "ppo": "from trl.experimental.ppo import PPOTrainer",
    "sft": "from trl import RewardTrainer, SFTTrainer",
}


class NotInstallable(Exception):
    """TRL cannot be installed, or imported, on this machine."""


def home() -> Path:
    """Return the environment's folder."""
    return Path(sys.prefix) / "bench"


def python_of() -> Path:
    """Return the environment's interpreter."""
    return home() / "bin" / "python"


def variables_of(stage: str) -> dict[str, str]:
    """Return the environment variables of a process that runs a trainer of TRL for this stage."""
    path = {"PYTHONPATH": str(home() / "ppo")} if stage == "ppo" else {}
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | quiet | path


def prepare() -> None:
    """Make the environment unless it is there. Raises NotInstallable, with the reason."""
    pins = "".join((HERE / name).read_text(encoding="utf-8") for name in _FILES)
    stamp = home() / ".ready"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == pins:
        return
    shutil.rmtree(home(), ignore_errors=True)
    venv.create(home(), symlinks=True)
    site = next((home() / "lib").glob("python*/site-packages"))
    shared = [path for path in sys.path if Path(path, "torch").is_dir()]
    site.joinpath("project.pth").write_text(
        "".join(f"{path}\n" for path in shared), encoding="utf-8"
    )
    for name, target in _FILES.items():
        folder = site if target is None else home() / target
        words = ("--no-deps", "--target", str(folder), "--requirement", str(HERE / name))
        _call([sys.executable, "-m", "pip", "install", "--quiet", *words])
    for stage, trial in TRIALS.items():
        _call([str(python_of()), "-c", trial], variables_of(stage))
    stamp.write_text(pins, encoding="utf-8")


_FILES = {"requirements.txt": None, "requirements-ppo.txt": "ppo"}  # folder; None: the main one


def _call(command: list[str], variables: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=variables, capture_output=True, encoding="utf-8")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NotInstallable(f"{' '.join(command[1:4])} failed: {reason}")
