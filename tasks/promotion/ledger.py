"""The ledger of champions: one version of the registered model '<name>-ledger' for every attempt to
move an alias.

MLflow numbers versions under a unique constraint, and number n + 1 is given out only once number n
can be read. So of several attempts exactly one finds no lower number without an outcome: it alone
may move aliases, the others step back. What an entry says at first is never changed; its attempt
adds where it is (`step`), what it is about to move (`plan`) and how it ended (`outcome`). The
champion is what the last entry with outcome 'done' says; the alias is its projection.
"""

import json
import random
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from rlhf_core.errors import BadInput, PromotionRefused
from rlhf_core.rundir import Frozen
from tasks.records.process_identity import ProcessIdentity, user
from tasks.records.run_record import ModelKind

Action = Literal["promote", "rollback", "recover"]
TransactionOutcome = Literal["done", "refused", "reverted", "undone"]
KINDS: tuple[ModelKind, ...] = ("policy", "reward")
# an attempt of a machine that cannot be seen from here counts as dead so long after its last step
LEASE_SECONDS = 1800.0
COLLISION_SECONDS = (
    60.0  # MLflow itself tries three times to get a number, which twenty promoters exceed
)
PAGE = 1000
TRANSIENT = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
_active: set[str] = set()  # tokens of the attempts of this process


class Champion(Frozen):
    """A version and the digest of its weights."""

    version: str
    digest: str


class AliasState(Frozen):
    """Which versions are champion; the reward model is the one that its policy was trained with."""

    policy: Champion | None = None
    reward: Champion | None = None

    def version(self, kind: ModelKind) -> str | None:
        """The champion of a kind."""
        champion = self.policy if kind == "policy" else self.reward
        return champion.version if champion else None


AliasVersions = dict[str, str | None]  # '<kind>@<alias>' -> version


class AliasPlan(Frozen):
    """What an attempt moves: every alias before and after, from which it can be completed or undone
    by anybody.
    """

    before: AliasVersions
    after: AliasVersions
    state: AliasState


class LedgerEntry(Frozen):
    """One attempt. `step` and `outcome` are added as it goes; times are UTC, ISO 8601."""

    number: int
    action: Action
    model: str
    version: str
    digest: str = ""
    expects: str = ""  # champion that the promoter saw, '' for none
    by: str
    reason: str = ""
    adopted: str = ""  # aliases that were accepted as found, though the ledger says otherwise
    contest_override: str = ""
    approved_by: str = ""  # who said yes outside the pipeline, as the promoter was told
    approval_comment: str = ""
    time: datetime
    token: str
    owner: ProcessIdentity
    plan: AliasPlan | None = None
    step: str = ""
    stepped: datetime
    outcome: TransactionOutcome | None = None
    outcome_reason: str = ""
    ended: datetime | None = None

    @property
    def kind(self) -> ModelKind:
        return "reward" if self.model.endswith("-reward") else "policy"

    @property
    def approved(self) -> str:
        """The approval that was given with the attempt, '' without one."""
        return (
            f"approved by {self.approved_by}: {self.approval_comment}" if self.approved_by else ""
        )

    @property
    def is_live(self) -> bool:
        """Whether somebody still works on it."""
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
        return f"{self.name}-ledger"

    def entries(self) -> list[LedgerEntry]:
        """Every entry, oldest first; none while there is no ledger."""
        found, token = [], None
        while True:
            page = self.client.search_model_versions(
                f"name = '{self.model}'", PAGE, ["version_number ASC"], token
            )
            found += [_entry(version) for version in page]
            token = page.token
            if not token:
                return found

    def append(self, action: Action, model: str, version: str, **tags: str) -> LedgerEntry:
        """A new entry, the intent of this process. Raises what MLflow raises when it cannot be
        written.
        """
        _require_model(self.client, self.model, self.name)
        token, now = secrets.token_hex(8), _utc().isoformat()
        tags |= {
            "action": action,
            "model": model,
            "version": version,
            "by": user(),
            "time": now,
            "token": token,
        }
        tags |= {"owner": ProcessIdentity.current().model_dump_json(), "step": f"{now} begun"}
        _active.add(token)
        try:
            return self._create({key: value for key, value in tags.items() if value})
        except BaseException:
            _active.discard(token)
            raise

    def _create(self, tags: dict[str, str]) -> LedgerEntry:
        """Get a number in spite of other promoters, and in spite of a lost answer: then there may
        be two entries.
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
        """Say where the attempt is, which also renews its lease. Raises PromotionRefused when
        somebody has ended it.
        """
        self.require_open(entry)
        self._tag(entry, "step", f"{_utc().isoformat()} {name}")

    def record(self, entry: LedgerEntry, what: Literal["plan", "adopted"], text: str) -> None:
        """Say what is about to be moved, or what was taken as found."""
        self._tag(entry, what, text)

    def close(self, entry: LedgerEntry, outcome: TransactionOutcome, reason: str) -> None:
        """Say how the attempt ended; nothing may be moved in its name afterwards."""
        if reason:
            self._tag(entry, "outcome_reason", reason)
        self._tag(entry, "ended", _utc().isoformat())
        self._tag(entry, "outcome", outcome)

    def release(self, entry: LedgerEntry) -> None:
        """This process does nothing more for the entry, whether or not it could say how it ended."""
        _active.discard(entry.token)

    def require_open(self, entry: LedgerEntry) -> None:
        """Raise PromotionRefused when the entry was ended by somebody who took this process for
        dead, or was deleted.
        """
        now = next((other for other in self.entries() if other.number == entry.number), None)
        if now is None or now.outcome:
            found = f"ended as '{now.outcome}' ({now.outcome_reason})" if now else "deleted"
            raise PromotionRefused(
                f"{entry} was {found} while it was at work; nothing more is moved in its name."
            )

    def _tag(self, entry: LedgerEntry, key: str, value: str) -> None:
        self.client.set_model_version_tag(self.model, str(entry.number), key, value)


def champion_history(entries: list[LedgerEntry]) -> list[AliasState]:
    """The champions, oldest first: a promotion puts one on top, a rollback takes off what lies
    above its target.
    """
    states: list[AliasState] = []
    for entry in entries:
        if entry.outcome != "done" or entry.plan is None:
            continue
        states = history_after(states, entry.action, entry.plan.state)
    return states


def history_after(states: list[AliasState], action: Action, target: AliasState) -> list[AliasState]:
    """The stack after one more attempt."""
    below = [index for index, state in enumerate(states[:-1]) if state == target]
    return states[: below[-1] + 1] if action == "rollback" and below else [*states, target]


def rollback_targets(states: list[AliasState], kind: ModelKind) -> list[AliasState]:
    """The states to which a rollback of `kind` may go, the nearest first."""
    top = states[-1].version(kind) if states else None
    return [state for state in reversed(states[:-1]) if state.version(kind) not in (None, top)]


def missing_numbers(entries: list[LedgerEntry]) -> list[int]:
    """Numbers of entries that were deleted."""
    numbers = {entry.number for entry in entries}
    return [number for number in range(1, max(numbers, default=0)) if number not in numbers]


def _require_model(client: MlflowClient, model: str, name: str) -> None:
    text = (
        f"Every attempt to move the champion of {name}, one version each. Append-only: `rlhf"
        f" history {name}` reads it."
    )
    try:
        client.create_registered_model(model, description=text)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _entry(version: ModelVersion) -> LedgerEntry:
    tags = dict(version.tags)
    try:
        stepped, _, step = tags.pop("step").partition(" ")
        tags |= {name: json.loads(tags[name]) for name in ("owner", "plan") if name in tags}
        known = {key: value for key, value in tags.items() if key in LedgerEntry.model_fields}
        return LedgerEntry.model_validate(
            known | {"number": int(version.version), "step": step, "stepped": stepped}
        )
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
