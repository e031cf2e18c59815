"""The memory of a deployment that starts on labels: what it has used, and what it is about to use.

It is a file of the workspace, as the campaigns are. Whatever is decided is written before it is
done. So a look that is killed is completed by the next one, and labels start one run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict

from rlhf_core.digest import digest_json
from rlhf_core.rundir import write_atomically
from tasks.labels.ready import CampaignLabels
from tasks.records.file_lock import locked
from tasks.records.workspace import Workspace


class UsedCampaign(BaseModel):
    """A campaign whose labels a run is started on, and their file."""

    id: str
    name: str
    file: str


class TriggerMemory(BaseModel):
    """The labels that a deployment has used; every change is a new memory.

    pending: names of campaigns that are about to be used. run: id of the run on the latest labels.
    tries: runs that were started on them before. refused: number of new labels when annotators last
    agreed too little.
    """

    model_config = ConfigDict(frozen=True)

    used: tuple[UsedCampaign, ...] = ()
    pending: tuple[str, ...] = ()
    run: str | None = None
    tries: int = 0
    refused: int | None = None

    def unused(self, found: Sequence[CampaignLabels]) -> list[CampaignLabels]:
        """Return the campaigns with labels that no run was started on."""
        known = {one.id for one in self.used}
        return [one for one in found if one.id not in known and one.labels > 0]

    def waits(self, new: Sequence[CampaignLabels], least: int) -> str | None:
        """Return why these labels start no run; None where they start one."""
        count = sum(one.labels for one in new)
        if count < least:
            return f"{count} of {least} new labels"
        if self.refused == count:
            return f"{count} new labels, and annotators agree too little"
        return None

    def about_to_use(self, new: Sequence[CampaignLabels]) -> "TriggerMemory":
        """Return the memory of a decision to use these campaigns."""
        return self.model_copy(update={"pending": tuple(one.folder.name for one in new)})

    def refusing(self, count: int) -> "TriggerMemory":
        """Return the memory where this number of new labels was refused."""
        return self.model_copy(update={"pending": (), "refused": count})

    def using(self, campaigns: Sequence[UsedCampaign]) -> "TriggerMemory":
        """Return the memory where a run on these campaigns is due."""
        used = (*self.used, *campaigns)
        return TriggerMemory(used=used)

    def started(self, run: str) -> "TriggerMemory":
        """Return the memory where the run that was due is there."""
        return self.model_copy(update={"run": run})

    def again(self) -> "TriggerMemory":
        """Return the memory where the latest run never began, so that another one is due."""
        return self.model_copy(update={"run": None, "tries": self.tries + 1})

    @property
    def is_due(self) -> bool:
        """True if a run on the latest labels has not been started."""
        return bool(self.used) and self.run is None

    @property
    def files(self) -> list[str]:
        """The files of all campaigns that were used, oldest first."""
        return [one.file for one in self.used]

    @property
    def key(self) -> str:
        """The identity of the run that is due: its labels, and how often it was tried."""
        return digest_json([[one.id for one in self.used], self.tries])


class TriggerFile:
    """The file of a deployment's memory."""

    def __init__(self, workspace: Workspace, deployment: str) -> None:
        name = "".join(letter if letter.isalnum() else "_" for letter in deployment.lower())
        self._folder = workspace.home / "label_triggers"
        self._file = self._folder / f"{name}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock: one look at a time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._file.with_suffix(".lock")):
            yield

    def load(self) -> TriggerMemory:
        """Return the memory; an empty one before the first look."""
        if not self._file.exists():
            return TriggerMemory()
        return TriggerMemory.model_validate_json(self._file.read_text(encoding="utf-8"))

    def save(self, memory: TriggerMemory) -> TriggerMemory:
        """Write the memory by rename, and return it."""
        write_atomically(self._file, memory.model_dump_json(indent=1))
        return memory
