"""Checks of the aliases, the files and the ledger of the registry 'tiny'."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_core.errors import PromotionRefused
from tasks.promotion.aliases import RegistryAliases
from tasks.records.run_record import ModelKind
from tasks.registry.packaging import local_folder


def champions(registry: RegistryAliases) -> tuple[str | None, ...]:
    """Return policy@champion, policy@previous, reward@champion, reward@previous."""
    return tuple(registry.aliases().values())


@contextlib.contextmanager
def refused(
    registry: RegistryAliases,
    match: str,
    error: type[Exception] = PromotionRefused,
    outcome: str = "refused",
) -> Iterator[None]:
    """Check that what is done inside is refused with a message that the ledger keeps.

    No alias and no version may change.
    """

    def versions() -> list:
        names = ("tiny-policy", "tiny-reward")
        return [
            sorted(dict(v.tags).items())
            for name in names
            for v in registry.client.search_model_versions(f"name='{name}'")
        ]

    before, aliases, count = versions(), registry.aliases(), len(registry.ledger.entries())
    with pytest.raises(error, match=match) as raised:
        yield
    entries = registry.ledger.entries()
    assert versions() == before and registry.aliases() == aliases
    assert len(entries) == count + 1 and entries[-1].outcome == outcome
    assert entries[-1].outcome_reason == str(raised.value)


def files(registry: RegistryAliases, version: str, kind: ModelKind = "policy") -> Path:
    source = registry.client.get_model_version(registry.model(kind), version).source
    folder = local_folder(source or "")
    assert source and folder, f"{source} is no local folder"
    return folder


@contextlib.contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    """Put other bytes into a file for a while; leave its hard links alone."""
    kept = file.with_name("kept")
    file.rename(kept)
    try:
        file.write_bytes(content)
        yield
    finally:
        kept.replace(file)
