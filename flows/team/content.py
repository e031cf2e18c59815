"""The content of the team's page, before it is written as HTML."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from flows.api.champions import ReigningChampion

MOST_RUNS = 20  # of the latest
Tone = Literal["good", "warn", "bad", "plain"]


@dataclass(frozen=True)
class ServiceItem:
    """A service of the platform. href: its page, '' without one."""

    name: str
    state: str
    tone: Tone
    where: str
    href: str
    log: str


@dataclass(frozen=True)
class StageItem:
    """A stage of a run. note: progress or a verdict that is worth a word."""

    name: str
    state: str
    note: str = ""


@dataclass(frozen=True)
class RunItem:
    """A pipeline run. note: why it ended, or what it waits for, in one line."""

    name: str
    href: str
    state: str
    tone: Tone
    started: datetime
    took: str
    stages: tuple[StageItem, ...]
    note: str = ""


@dataclass(frozen=True)
class LiveItem:
    """A live model. versions: each with its share and health, in words."""

    name: str
    state: str
    tone: Tone
    address: str
    versions: tuple[str, ...]
    since: datetime | None


@dataclass(frozen=True)
class WaitingItem:
    """Something that waits for a person. do: the command that ends the waiting."""

    what: str
    whom: str
    do: str
    href: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class TeamContent:
    """The whole page. problems: of parts that could not be read, by part.

    deployments: rows of `rlhf schedules`. running: runs that have not ended, the others of `runs`
    included.
    """

    workspace: str
    made: datetime
    mlflow: str
    prefect: str
    services: list[ServiceItem]
    running: list[RunItem]
    live: list[LiveItem]
    waiting: list[WaitingItem]
    champions: list[ReigningChampion]
    deployments: list[dict[str, str]]
    runs: list[RunItem]
    problems: dict[str, str] = field(default_factory=dict)
