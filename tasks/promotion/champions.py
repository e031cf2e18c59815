"""The champions of one registry name, and the aliases before and after a transaction."""

from collections.abc import Iterator

from rlhf_core.rundir import Frozen
from tasks.records.run_record import ModelKind

KINDS: tuple[ModelKind, ...] = ("policy", "reward")


class Champion(Frozen):
    """A version and the digest of its weights."""

    version: str
    digest: str


class AliasState(Frozen):
    """The champions of one registry name; the policy was trained with this reward model."""

    policy: Champion | None = None
    reward: Champion | None = None

    def champion(self, kind: ModelKind) -> Champion | None:
        """Return the champion of a kind, None without one."""
        return self.policy if kind == "policy" else self.reward

    def version(self, kind: ModelKind) -> str | None:
        """Return the version of the champion of a kind, None without one."""
        champion = self.champion(kind)
        return champion.version if champion else None

    def champions(self) -> Iterator[tuple[ModelKind, Champion]]:
        """Yield the champions that there are, with their kind."""
        for kind in KINDS:
            if champion := self.champion(kind):
                yield kind, champion


AliasVersions = dict[str, str | None]  # '<kind>@<alias>' -> version


class AliasPlan(Frozen):
    """Every alias before and after a transaction, by which anybody can complete or undo it."""

    before: AliasVersions
    after: AliasVersions
    state: AliasState
