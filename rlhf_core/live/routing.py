"""Decide which versions have a server, and which share of the requests each one gets."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

WHOLE = 100  # percent
MOST_WAIT_SECONDS = 300.0  # between two starts of a server that dies


@dataclass(frozen=True)
class WantedVersions:
    """The versions to serve. canary: percent of the requests that the candidate gets."""

    champion: str
    candidate: str | None = None
    canary: int = 0

    @property
    def versions(self) -> list[str]:
        """The versions that need a server, the champion first."""
        return [self.champion, *([self.candidate] if self.candidate else [])]


def shares(
    wanted: WantedVersions, ready: Collection[str], present: Mapping[str, int]
) -> dict[str, int]:
    """Return percent of the requests by version, the main one first; empty where none can answer.

    ready: the versions whose servers answer. present: the shares as they are. While the champion's
    server is not ready, the requests stay where they are, without versions that cannot answer: so
    an alias that moves is followed without a request that nobody takes.
    """
    if wanted.champion in ready:
        small = wanted.canary if wanted.candidate in ready else 0
        main = {wanted.champion: WHOLE - small}
        return main | ({str(wanted.candidate): small} if small else {})
    able = {version: share for version, share in present.items() if version in ready}
    if not able:
        return {wanted.candidate: WHOLE} if wanted.candidate in ready and wanted.candidate else {}
    main_version = max(able, key=lambda version: able[version])
    left = sum(share for version, share in able.items() if version != main_version)
    return {main_version: WHOLE - left} | {
        version: share for version, share in able.items() if version != main_version
    }


def to_start(wanted: WantedVersions, served: Collection[str]) -> list[str]:
    """Return the wanted versions that have no server, the champion first."""
    return [version for version in wanted.versions if version not in served]


def to_stop(
    wanted: WantedVersions, served: Collection[str], routed: Mapping[str, int]
) -> list[str]:
    """Return the versions whose servers nobody needs: neither wanted nor with requests."""
    return [
        version for version in served if version not in wanted.versions and version not in routed
    ]


def wait_seconds(deaths: int) -> float:
    """Return the seconds until a server that has died `deaths` times in a row is started again."""
    return min(MOST_WAIT_SECONDS, 2.0**deaths) if deaths else 0.0
