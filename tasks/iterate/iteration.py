"""An iteration: rounds of labels and pipeline runs, as the workspace keeps them.

iterations/ID/iteration.json   what was asked for, and the rounds that have ended, written by rename
iterations/ID/round-N/         pairs.jsonl, then comparisons.jsonl with its folder of labels
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from rlhf_core.labels.candidates import PairSource
from rlhf_core.labels.picking import Pick
from rlhf_core.rundir import Frozen, write_atomically
from tasks.records.run_record import Membership
from tasks.records.workspace import Workspace
from tasks.sweeps.sweep import SweepMetric

COMPARISONS = "comparisons.jsonl"
RoundOutcome = Literal["promoted", "not promoted", "refused"]
TRUTH, PROXY = "eval/independent_gain", "eval/score_gain"
KL = "eval/kl_per_response"


class LabelRequest(Frozen):
    """The labels of each round. by: 'judge', or the 'module:function' of the annotators."""

    by: str
    sources: tuple[PairSource, ...]
    pick: Pick
    pairs: int
    continue_reward: bool = False  # train the reward model on from the champion's


class RoundLabels(BaseModel):
    """The labels of one round.

    model_run: the run whose models made the pairs. reward_model: the reward model among them.
    """

    file: Path
    pairs: int
    comparisons: int
    apart: int
    votes: int
    by: str
    model_run: str | None
    reward_model: Path | None = None


class IterationRound(BaseModel):
    """One round that has ended. Round 0 is the recipe's run without labels of its own.

    refused_by: the gates that refused it, or had too few new pairs to decide on, as 'stage.gate';
    'contest' for the champion's, 'approval' for a person's no.
    """

    number: int
    outcome: RoundOutcome
    reason: str = ""
    refused_by: list[str] = []
    run: str
    record_id: str
    link: str | None = None
    labels: RoundLabels | None = None
    metrics: dict[str, SweepMetric] = {}
    policy: str | None = None  # digests of its models
    reward: str | None = None
    champion: str | None = None  # digest of the policy that is champion after the round
    seconds: float = 0.0


class Iteration(BaseModel):
    """The request of a loop, and its rounds so far."""

    id: str
    name: str
    recipe: str  # the recipe's name: the experiment in MLflow
    registry: str
    request: LabelRequest
    rounds_wanted: int
    tracking_uri: str
    rounds: list[IterationRound] = []
    run_id: str | None = None
    link: str | None = None

    def folder(self, workspace: Workspace) -> Path:
        """Return the folder of this iteration in the workspace."""
        return workspace.iterations / self.id

    def round_folder(self, workspace: Workspace, number: int) -> Path:
        """Return the folder of one round."""
        return self.folder(workspace) / f"round-{number}"

    def label_files(self, workspace: Workspace, last: int) -> list[Path]:
        """Return the files of comparisons of the rounds up to `last`, the first round's first."""
        folders = (self.round_folder(workspace, number) for number in range(1, last + 1))
        return [folder / COMPARISONS for folder in folders]

    def membership(self, number: int | None = None) -> Membership:
        """Return the membership that the record of a round's run holds; None: of no round."""
        label = "" if number is None else f"round {number}"
        return Membership(id=self.id, name=self.name, keys=["round"], label=label)

    def labels_spent(self, last: int) -> int:
        """Return the pairs that were labelled in the rounds up to `last`."""
        return sum(one.labels.pairs for one in self.rounds[: last + 1] if one.labels)


def load(workspace: Workspace, wanted: Iteration) -> Iteration:
    """Return the iteration as it stands: the rounds that have ended, with today's request."""
    file = wanted.folder(workspace) / "iteration.json"
    if not file.exists():
        return wanted
    known = Iteration.model_validate_json(file.read_text(encoding="utf-8"))
    changes = {"rounds_wanted": wanted.rounds_wanted, "tracking_uri": wanted.tracking_uri}
    return known.model_copy(update=changes)


def save(workspace: Workspace, iteration: Iteration) -> Path:
    """Write iteration.json by rename, and return it."""
    folder = iteration.folder(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "iteration.json"
    write_atomically(file, iteration.model_dump_json(indent=1))
    return file
