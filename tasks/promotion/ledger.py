"""The ledger of champions: one version of the model '<name>-ledger' per transaction on the aliases.

MLflow numbers versions under a unique constraint, and gives out number n + 1 only once number n
can be read. So of several transactions exactly one finds no lower number without an outcome: it
alone may move aliases, the others step back. The first tags of an entry never change; its
transaction adds where it is (`step`), what it is about to move (`plan`) and how it ended
(`outcome`). The champion is that of the last entry with outcome 'done'; the alias follows it.
"""

import json
import random
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import Field, ValidationError

from rlhf_core.errors import BadInput, PromotionRefused
from rlhf_core.live.verdict import LiveVerdict
from rlhf_core.rundir import Frozen
from tasks.promotion.champions import AliasPlan
from tasks.promotion.looks import ContestOutcome
from tasks.promotion.rights import refusal
from tasks.records.approval_record import ApprovalRecord
from tasks.records.process_identity import Identity, ProcessIdentity
from tasks.records.run_record import ModelKind
from tasks.registry.versions import ensure_model
from tasks.tracking.account import account_at
from tasks.tracking.pages import model_versions

Action = Literal["promote", "rollback", "recover", "propose"]
Recorded = Literal["plan", "adopted", "chain", "contest", "approval"]  # once an entry's turn came
TransactionOutcome = Literal["done", "refused", "reverted", "undone"]
# after this time without a step, a transaction counts as dead when its process cannot be seen
LEASE_SECONDS = 1800.0
# time to get a number; MLflow itself tries three times, which twenty promoters exceed
COLLISION_SECONDS = 60.0
TRANSIENT = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
_ABOUT = (
    "Every attempt to move the champion of {name}, one version each. Append-only: `rlhf history"
    " {name}` reads it."
)
JSON_TAGS = ("owner", "plan", "contest", "approval", "live")  # of an entry
_active: set[str] = set()  # tokens of the transactions of this process


class LedgerEntry(Frozen):
    """One transaction; times are UTC, ISO 8601. It adds plan, step and outcome as it goes on."""

    number: int
    action: Action
    model: str
    version: str
    digest: str = ""
    expects: str = ""  # version of the champion that the promoter saw, '' for none
    by: str  # account of MLflow's server, else user@host
    identity: Identity = "declared"
    reason: str = ""
    adopted: str = ""  # aliases that were accepted as found, though the ledger says otherwise
    contest_override: str = ""
    approved_by: str = ""  # who approved outside the pipeline, by the promoter's word
    approval_comment: str = ""
    time: datetime
    token: str
    owner: ProcessIdentity
    contest: ContestOutcome | None = None
    approval: ApprovalRecord | None = None  # by an account of MLflow's server
    live: LiveVerdict | None = None  # of `rlhf live gate`, which made the attempt
    plan: AliasPlan | None = None
    chain: str = ""  # digest of all entries before this one, recorded at its turn
    step: str = ""
    stepped: datetime
    outcome: TransactionOutcome | None = None
    outcome_reason: str = ""
    ended: datetime | None = None
    tags: dict[str, str] = Field(default_factory=dict, exclude=True, repr=False)  # as MLflow's

    @property
    def kind(self) -> ModelKind:
        """The kind of model, which its name ends with."""
        return "reward" if self.model.endswith("-reward") else "policy"

    @property
    def approved(self) -> str:
        """The approval that was given with the transaction, '' without one."""
        return (
            f"approved by {self.approved_by}: {self.approval_comment}" if self.approved_by else ""
        )

    @property
    def is_live(self) -> bool:
        """True if a process still works on it."""
        if self.outcome:
            return False
        if self.owner.is_current:
            return self.token in _active
        runs = self.owner.is_running()
        return runs if runs is not None else (_utc() - self.stepped).total_seconds() < LEASE_SECONDS

    def __str__(self) -> str:
        what = (
            self.action
            if self.action == "recover"
            else f"{self.action} {self.model} {self.version}"
        )
        return (
            f"entry {self.number} ({what}, by {self.by}, process {self.owner.pid} on"
            f" {self.owner.host})"
        )


@dataclass(frozen=True)
class Ledger:
    """The ledger of one registry name."""

    client: MlflowClient
    name: str

    @property
    def model(self) -> str:
        """The name of the registered model whose versions are the entries."""
        return f"{self.name}-ledger"

    def entries(self) -> list[LedgerEntry]:
        """Return every entry, oldest first; there is none while there is no ledger."""
        found = model_versions(self.client, f"name = '{self.model}'", ["version_number ASC"])
        return [_entry(version) for version in found]

    def append(self, action: Action, model: str, version: str, **tags: str) -> LedgerEntry:
        """Append and return an entry with the intent of this process.

        Raises what MLflow raises when it cannot be written.
        """
        ensure_model(self.client, self.model, _ABOUT.format(name=self.name))
        token, now = secrets.token_hex(8), _utc().isoformat()
        account = account_at(self.client.tracking_uri)
        tags |= {
            "action": action,
            "model": model,
            "version": version,
            "by": account.name,
            "time": now,
            "token": token,
        }
        tags |= {"owner": ProcessIdentity.current().model_dump_json(), "step": f"{now} begun"}
        tags |= {"identity": account.identity} if account.is_authenticated else {}
        _active.add(token)
        try:
            return self._create({key: value for key, value in tags.items() if value})
        except BaseException:
            _active.discard(token)
            raise

    def _create(self, tags: dict[str, str]) -> LedgerEntry:
        """Create an entry in spite of other promoters, and of a lost answer.

        A lost answer may leave two entries; the second one is closed.
        """
        end = time.monotonic() + COLLISION_SECONDS
        while True:
            refused = None
            try:
                self.client.create_model_version(
                    self.model,
                    f"ledger:/{self.name}",
                    tags=tags,
                    description=_description(tags),
                    await_creation_for=0,
                )
            except MlflowException as error:
                if error.error_code == "PERMISSION_DENIED":
                    raise refusal(self.name, self.model, tags["by"]) from error
                refused = error
            mine = [entry for entry in self.entries() if entry.token == tags["token"]]
            if mine:
                for double in mine[1:]:
                    self.close(
                        double, "undone", f"sent twice: the same attempt as entry {mine[0].number}"
                    )
                return mine[0]
            if refused is None or refused.error_code not in TRANSIENT or time.monotonic() > end:
                raise refused or BadInput(
                    f"{self.model} has lost an entry that was just written; ask who deletes them."
                )
            time.sleep(random.uniform(0.05, 0.5))

    def record_step(self, entry: LedgerEntry, name: str) -> None:
        """Record where the transaction is, which also renews its lease.

        Raises PromotionRefused when somebody has ended it.
        """
        self.require_open(entry)
        self._tag(entry, "step", f"{_utc().isoformat()} {name}")

    def record(self, entry: LedgerEntry, what: Recorded, text: str) -> None:
        """Record the plan, aliases accepted as found, chain digest, contest or approval."""
        self._tag(entry, what, text)

    def close(self, entry: LedgerEntry, outcome: TransactionOutcome, reason: str) -> None:
        """Record how the transaction ended; it may move nothing afterwards."""
        if reason:
            self._tag(entry, "outcome_reason", reason)
        self._tag(entry, "ended", _utc().isoformat())
        self._tag(entry, "outcome", outcome)

    def release(self, entry: LedgerEntry) -> None:
        """End this process's work on the entry, with or without a recorded outcome."""
        _active.discard(entry.token)

    def require_open(self, entry: LedgerEntry) -> None:
        """Raise PromotionRefused when somebody has ended or deleted the entry.

        That happens when another process takes this one for dead.
        """
        now = next((other for other in self.entries() if other.number == entry.number), None)
        if now is None or now.outcome:
            found = f"ended as '{now.outcome}' ({now.outcome_reason})" if now else "deleted"
            raise PromotionRefused(
                f"{entry} was {found} while it was at work; nothing more is moved in its name."
            )

    def _tag(self, entry: LedgerEntry, key: str, value: str) -> None:
        self.client.set_model_version_tag(self.model, str(entry.number), key, value)


def _entry(version: ModelVersion) -> LedgerEntry:
    tags: dict[str, Any] = dict(version.tags)
    try:
        stepped, _, step = tags.pop("step").partition(" ")
        tags |= {name: json.loads(tags[name]) for name in JSON_TAGS if name in tags}
        known = {key: value for key, value in tags.items() if key in LedgerEntry.model_fields}
        known |= {"number": int(version.version), "step": step, "stepped": stepped}
        return LedgerEntry.model_validate(known | {"tags": dict(version.tags)})
    except (KeyError, ValueError, ValidationError) as error:
        raise BadInput(
            f"version {version.version} of {version.name} is no entry of a ledger"
            f" ({type(error).__name__}: {error}). Nothing was changed. Somebody has written or"
            " altered it by hand: restore its tags, or delete that version."
        ) from None


def _description(tags: dict[str, str]) -> str:
    reason = f": {tags['reason']}" if tags.get("reason") else ""
    return f"{tags['action']} {tags['model']} {tags['version']} by {tags['by']}{reason}"


def _utc() -> datetime:
    return datetime.now(UTC)
