"""A labelling campaign as the workspace keeps it: labels/NAME/ with its pairs and who has which.

campaign.json   what was asked for, and what MLflow made of it (experiment, questions, queues)
pairs.jsonl     the pairs, with where each comes from: annotators never see that
closing/        the files of a close, whole, before they are published
closed.json     what the close has written, last of all
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel

from rlhf_core.errors import BadInput
from rlhf_core.labels.outcome import lines
from rlhf_core.labels.votes import LabelPair, is_swapped, read_pairs
from rlhf_core.rundir import write_atomically
from tasks.records.file_lock import locked
from tasks.records.run_record import now
from tasks.records.workspace import Workspace

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Assignment(BaseModel):
    """One pair in one annotator's queue.

    swapped: reply b is shown first. is_in_mlflow: it was put there, where somebody may delete it.
    """

    annotator: str
    pair_id: str
    swapped: bool
    is_in_mlflow: bool = False


class Queue(BaseModel):
    """One annotator's review queue in MLflow."""

    queue_id: str
    name: str
    left: bool = False  # the annotator has left: what is not done there is somebody else's


class Campaign(BaseModel):
    """The questions and annotators of a campaign. id: random, so that no two share traces."""

    id: str
    name: str
    created: int
    seed: int
    tracking_uri: str
    annotators: list[str]
    assignments: list[Assignment] = []
    run: dict = {}  # the pipeline run, its models' digests
    sources: list[str] = []
    pick: str = "random"
    overlap: float = 0.0
    page_characters: int = 1000
    accounts: bool = False  # MLflow's server knows who answers
    experiment_id: str | None = None
    schema_ids: list[str] = []
    queues: dict[str, Queue] = {}  # by annotator
    opened: bool = False

    @classmethod
    def new(
        cls, name: str, pairs: dict[str, list[str]], seed: int, tracking_uri: str
    ) -> "Campaign":
        """Return a campaign that nobody has been asked about; pairs: ids by annotator."""
        found = cls(
            id=secrets.token_hex(8),
            name=name,
            created=now(),
            seed=seed,
            tracking_uri=tracking_uri,
            annotators=list(pairs),
        )
        found.add(pairs)
        return found

    def add(self, pairs: dict[str, list[str]]) -> None:
        """Assign pairs, by annotator, after those that they have."""
        self.assignments += [
            Assignment(
                annotator=annotator,
                pair_id=pair_id,
                swapped=is_swapped(self.seed, pair_id, annotator),
            )
            for annotator, own in pairs.items()
            for pair_id in own
        ]

    @property
    def experiment(self) -> str:
        """The name of the campaign's experiment in MLflow."""
        return f"labels/{self.name}"

    def of(self, annotator: str) -> list[Assignment]:
        """Return one annotator's pairs, in the order in which they are shown."""
        return [one for one in self.assignments if one.annotator == annotator]

    def trace_id(self, assignment: Assignment) -> str:
        """Return the id of the trace that shows a pair to an annotator."""
        text = "/".join((self.id, assignment.pair_id, assignment.annotator))
        return f"tr-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


class CampaignFolder:
    """The folder of one campaign."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        if not NAME.fullmatch(name):
            raise BadInput(
                f"the campaign's name is {name!r}; expected small letters, digits, '.', '_' and"
                " '-', as week-48."
            )
        self.name = name
        self.path = workspace.labels / name
        self._file = self.path / "campaign.json"

    @property
    def exists(self) -> bool:
        """True if the campaign was begun."""
        return self._file.exists()

    @property
    def closing(self) -> Path:
        """The folder of a close that is decided, and perhaps not published yet."""
        return self.path / "closing"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the campaign's lock: one command at a time changes it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / "lock"):
            yield

    def load(self) -> Campaign:
        """Return the campaign. Raises BadInput for a name that no campaign has."""
        if not self.exists:
            known = sorted(file.parent.name for file in self.path.parent.glob("*/campaign.json"))
            raise BadInput(
                f"no labelling campaign is named {self.name!r}; expected one of this workspace:"
                f" {', '.join(known) or 'there is none'}. Open one with rlhf label open."
            )
        return Campaign.model_validate_json(self._file.read_text(encoding="utf-8"))

    def save(self, campaign: Campaign) -> None:
        """Write the campaign by rename."""
        write_atomically(self._file, campaign.model_dump_json(indent=1))

    def save_pairs(self, pairs: list[LabelPair]) -> None:
        """Write the pairs by rename."""
        write_atomically(self.path / "pairs.jsonl", lines([asdict(pair) for pair in pairs]))

    def pairs(self) -> list[LabelPair]:
        """Return the pairs."""
        return read_pairs(self.path / "pairs.jsonl")

    def closed(self) -> dict | None:
        """Return what the close has written; None while the campaign is open."""
        file = self.path / "closed.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def require_open(self) -> None:
        """Raise BadInput for a campaign that is closed, or whose close was stopped."""
        self.require_not_closed()
        if self.closing.exists():
            raise BadInput(
                f"campaign {self.name} is closed in part: the command was stopped, and its labels"
                f" are decided. Close it again: rlhf label close {self.name} completes it."
            )

    def require_not_closed(self) -> None:
        """Raise BadInput for a campaign that is closed to the end."""
        if found := self.closed():
            raise BadInput(
                f"campaign {self.name} is closed: {found['comparisons']} comparisons are in"
                f" {found['out']}. Open another one for more labels."
            )
