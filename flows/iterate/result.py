"""The end of a loop, as the command line prints it."""

from dataclasses import dataclass
from pathlib import Path

from tasks.iterate.iteration import Iteration


@dataclass
class IterationResult:
    """The end of a loop. already_done: rounds that earlier commands had ended."""

    iteration: Iteration
    folder: Path
    already_done: int
    page: Path | None = None
    problem: str | None = None  # why MLflow lacks a part of it

    def as_json(self) -> dict:
        """Return the JSON values that `rlhf iterate --json` prints."""
        return self.iteration.model_dump(mode="json") | {
            "already_done": self.already_done,
            "folder": str(self.folder),
            "page": str(self.page) if self.page else None,
            "mlflow_problem": self.problem,
        }
