"""The contract between orchestration and learning: a run directory.

spec.json      what to do, fully resolved, written before the stage starts
metrics.jsonl  one line per step, appended as the stage goes; also the spool for MLflow
timeline.jsonl what learner and sampler of PPO did when (see rlhf_core.ppo.timeline)
checkpoints/   complete checkpoints only (see rlhf_core.engine.checkpoint)
tokens/        the training split as token ids, for all ranks (see rlhf_core.engine.encoded)
continued.json where the first checkpoints are from (see rlhf_core.engine.continued)
stage.log      everything the stage and its libraries print
failure.json   why a stage refused (exit code 2)
stop           asks the stage to end at its next checkpoint, which it then makes at once
result.json    what it made; written last, by rename: its presence means finished
"""

import json
import math
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from rlhf_core.digest import digest_json, digest_path
from rlhf_core.errors import BadInput
from rlhf_core.metrics import require_declared
from rlhf_core.patterns import is_there
from rlhf_core.ranks import is_rank_zero

# in a model's folder: it holds several reward models, see rlhf_core/modeling/ensemble.py
ENSEMBLE = "ensemble.json"
CHECKPOINTS, TOKENS = "checkpoints", "tokens"  # folders in a run directory
STOP = "stop"  # file in a run directory
BENCHMARK_RESULTS = "benchmarks"  # folder beside the run directories: results to be used again
TAIL_BYTES = 1 << 16  # how much of a file last_line reads at first


class Frozen(BaseModel):
    """A record that is complete when made and never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(Frozen):
    """A file, a folder or a pattern of files, and the digest of its content."""

    path: Path
    digest: str

    @classmethod
    def of(cls, path: Path) -> "Artifact":
        """Return `path` with the digest of its content.

        Raises BadInput when nothing is there, or nothing that this user may read.
        """
        try:
            if not is_there(path):
                raise BadInput(
                    f"{path} does not exist; expected a file or folder. Check the path in the"
                    " recipe."
                )
            if path.is_dir():
                os.listdir(path)  # a search below it passes over a folder that it may not read
            return cls(path=path.resolve(), digest=digest_path(path))
        except PermissionError as error:
            raise BadInput(
                f"{error.filename or path} may not be read by user {os.geteuid()}; expected a file"
                f" or folder that you may read. Ask its owner for it: chmod -R a+rX {path}."
            ) from None

    def verified(self) -> "Artifact":
        """Return itself after reading the bytes again.

        Raises BadInput when they changed since they were digested.
        """
        found = Artifact.of(self.path).digest
        if found != self.digest:
            raise BadInput(
                f"{self.path} has digest {found[:12]}, expected {self.digest[:12]}: it changed"
                " after it was made. Delete its run directory to make it again.",
                code="RLHF-F001",
            )
        return self


ConfigT = TypeVar("ConfigT", covariant=True)  # specs are frozen


class StageSpec(Frozen, Generic[ConfigT]):
    """Everything a stage depends on.

    config: the stage's own frozen model (rlhf_core/config/stage_configs.py). A spec that is read
    without its stage, such as an older run's, has plain JSON values there.
    """

    stage: str
    seed: int
    config: ConfigT
    inputs: dict[str, Artifact]
    code: str = Field(description="Digest of rlhf_core's source.")

    @property
    def ranks(self) -> int:
        """The number of processes of the stage."""
        config: Any = self.config
        return config.get("ranks", 1) if isinstance(config, dict) else config.ranks

    @property
    def digest(self) -> str:
        """Identity of the result: the content of inputs, not their place."""
        body = self.model_dump(mode="json", exclude={"inputs"})
        return digest_json(
            body | {"inputs": {name: item.digest for name, item in self.inputs.items()}}
        )


class StageResult(Frozen):
    """The result of a finished stage.

    Paths in `outputs` and `files` are relative to the run directory.
    """

    stage: str
    digest: str = Field(description="Digest of the spec that this is the result of.")
    outputs: dict[str, Artifact] = {}
    metrics: dict[str, float] = {}
    counts: dict[str, int] = Field(
        default={}, description="Sample size behind a metric, by metric name."
    )
    intervals: dict[str, tuple[float, float]] = Field(
        default={}, description="95% interval of a metric, by name."
    )
    files: dict[str, str] = Field(
        default={}, description="Reports, tables (*.table.json), figures (*.png), by name."
    )
    seconds: float
    environment: dict[str, str] = {}


class Output(Frozen):
    """The return value of a stage's `run`; the runner adds digests, time and environment."""

    outputs: dict[str, str] = Field(
        default={}, description="Name to path relative to the run directory."
    )
    metrics: dict[str, float] = {}
    counts: dict[str, int] = {}
    intervals: dict[str, tuple[float, float]] = {}
    files: dict[str, str] = {}


def merged(parts: list[Output]) -> Output:
    """Return the parts of a stage's output as one; a later part wins where two name the same."""
    fields = Output.model_fields
    return Output(
        **{
            field: {k: v for part in parts for k, v in getattr(part, field).items()}
            for field in fields
        }
    )


def write_atomically(path: Path, text: str | Iterable[str]) -> None:
    """Write `text`, or its parts as they come, to `path` by rename (see `replacing`)."""
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8", newline="\n") as file:
        file.writelines([text] if isinstance(text, str) else text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path in the same folder; what is written there takes the place of `path`.

    The file holds its old content or all of the new one, even after a power cut. Several threads,
    processes and hosts may write the same file; the last one wins.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class RunDir:
    """A stage's run directory, open for writing metrics, which rank 0 alone does."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._logged_steps = (
            {line["step"] for line in read_metrics(self.metrics_path)} if is_rank_zero() else set()
        )

    @property
    def metrics_path(self) -> Path:
        """The file of the steps' metrics."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def tokens(self) -> Path:
        """The folder of the encoded splits."""
        return self.path / TOKENS

    def log(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        """Append one line.

        A step that is there already is not doubled: a resumed stage repeats it with equal values.
        step: counted from 1; steps: how many there will be. Raises KeyError for a metric that is
        not declared.
        """
        require_declared(metrics)
        if step in self._logged_steps or not is_rank_zero():
            return
        self._logged_steps.add(step)
        line = {
            "step": step,
            "steps": steps,
            "time": time.time(),
            "metrics": {k: float(v) for k, v in metrics.items()},
        }
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_metrics(path: Path) -> list[dict]:
    """Return the complete lines of a metrics.jsonl.

    A last line that a kill cut off is left out, and cut from the file.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if len(complete) != len(data):
        with path.open("rb+") as file:
            file.truncate(len(complete))
    return [json.loads(line) for line in complete.splitlines()]


def new_lines(path: Path, offset: int) -> tuple[list[dict], int]:
    """Return the complete lines after byte `offset`, and the offset after them.

    A file that does not exist yet has no lines.
    """
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:end].splitlines()], offset + end


def last_line(path: Path) -> dict | None:
    """Return the last complete line; None when there is none.

    It reads from the end, because the file of a long run holds many steps.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        size, wanted = file.seek(0, os.SEEK_END), TAIL_BYTES
        while True:
            start = file.seek(max(0, size - wanted))
            data = file.read(size - start)
            lines = data[: data.rfind(b"\n") + 1].splitlines()
            if len(lines) > 1 or start == 0:  # the first may be cut off at its beginning
                return json.loads(lines[-1]) if lines else None
            wanted *= 2


def read_result(path: Path) -> StageResult | None:
    """Return the result of a run directory, with absolute paths; None while it is unfinished."""
    file = path / "result.json"
    if not file.exists():
        return None
    result = StageResult.model_validate_json(file.read_text(encoding="utf-8"))
    outputs = {
        k: Artifact(path=path.resolve() / v.path, digest=v.digest)
        for k, v in result.outputs.items()
    }
    return result.model_copy(update={"outputs": outputs})


def finite(metrics: dict[str, float]) -> bool:
    """Return True when no value is NaN or infinite."""
    return all(math.isfinite(value) for value in metrics.values())
