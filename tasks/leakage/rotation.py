"""The contests that a recipe's held-out prompts have had, and the check that others are fresh.

Prompts are fresh when no contest has looked at them and no model that takes part was trained on
them. Another data.split_seed gives none: nine in ten of its held-out prompts have trained the
champion. So they must have been set aside before (data.heldout_folds), or be new rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_core.contest.prompts import sampled
from rlhf_core.contest.spending import level, spent_share
from rlhf_core.data.splits import load_split, prompt_keys
from rlhf_core.digest import digest_file
from rlhf_core.evidence.items import prompt_id
from tasks.leakage.heldout import forbidden_prompts, trained_prompts
from tasks.leakage.training_data import Origins
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.candidates import contest_entries
from tasks.promotion.champions import KINDS
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.looks import different_looks, looks_at
from tasks.records.heldout_check import brief_reasons
from tasks.registry.versions import CHAMPION

SPLIT = "prompts_heldout"


@dataclass(frozen=True)
class HeldoutPrompts:
    """The prompts of one held-out split. keys: as leak searches have them."""

    digest: str
    keys: frozenset[str]
    sample: tuple[str, ...]  # of the ids that the ledger keeps

    @classmethod
    def of(cls, split: Path) -> "HeldoutPrompts":
        """Return the prompts of a split's file."""
        rows = load_split(split)
        ids = [prompt_id(row["prompt"]) for row in rows]
        return cls(digest_file(split), prompt_keys(rows), sampled(ids))


@dataclass(frozen=True)
class HeldoutUse:
    """The use of held-out prompts by contests.

    contests: different ones so far. next_level: one-sided level of the next one. spent: share of
    the error budget that those so far have spent.
    """

    digest: str
    prompts: int
    contests: int
    next_level: float
    spent: float


@dataclass(frozen=True)
class Freshness:
    """The findings about prompts that a recipe would hold out next.

    shared: with the present ones. trained: prompts by model that was trained on them. unknown: why
    nothing is known of a model's data.
    """

    use: HeldoutUse
    shared: int
    trained: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def is_fresh(self) -> bool:
        """True if no contest and no champion is known to have seen any of them."""
        return not (self.use.contests or self.shared or self.trained)


def use_of(
    entries: Iterable[LedgerEntry], prompts: HeldoutPrompts, confidence: float
) -> HeldoutUse:
    """Return the use of held-out prompts by the contests that a ledger records."""
    found = looks_at(entries, prompts.digest, prompts.sample)
    contests = len(different_looks(found))
    return HeldoutUse(
        prompts.digest,
        len(prompts.keys),
        contests,
        level(contests + 1, confidence),
        spent_share(contests),
    )


def freshness(
    registry: RegistryAliases, present: HeldoutPrompts, following: HeldoutPrompts, confidence: float
) -> Freshness:
    """Search the ledger, the present split and the champions' training data for these prompts.

    Raises what MLflow raises when it does not answer.
    """
    use = use_of(contest_entries(registry.client, registry.name), following, confidence)
    found = Freshness(use, len(present.keys & following.keys))
    origins, aliases = Origins(registry.workspace, lambda: registry.client), registry.aliases()
    for kind in KINDS:
        if version := aliases[f"{kind}@{CHAMPION}"]:
            name = f"{registry.model(kind)} {version}"
            digest = registry.as_champion(kind, version).digest
            trained, reasons, _ = trained_prompts(origins, digest)
            (forbidden,) = forbidden_prompts({name: trained}, SPLIT).values()
            if seen := len(following.keys & forbidden):
                found.trained[name] = seen
            if reasons:
                found.unknown[name] = brief_reasons(reasons)
    return found
