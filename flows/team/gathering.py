"""Gather the content of the team's page. A part that cannot be read is a line on the page."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from flows.api.champions import champions
from flows.api.session import begin, tracking_client
from flows.platform.health import service_state
from flows.platform.live.state import live_folders
from flows.platform.live.view import LiveView, view
from flows.platform.pages import answers
from flows.platform.services import KEEPER
from flows.platform.state import Platform, Service, read
from flows.team import waiting
from flows.team.content import LiveItem, ServiceItem, TeamContent, Tone, WaitingItem
from flows.team.run_items import latest_and_running
from rlhf_core.errors import RLHFError
from tasks.tracking.address import redacted
from tasks.tracking.client import brief, page_base

if TYPE_CHECKING:
    from tasks.records.workspace import Workspace

PageItem = TypeVar("PageItem")


class Parts:
    """The parts of one page; problems: why some could not be read, by part."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}

    def read(self, name: str, part: Callable[[], Iterable[PageItem]]) -> list[PageItem]:
        """Return the items of a part; without any where it raises, and then say why."""
        try:
            return list(part())
        except Exception as error:  # whatever a server or a file does, the page is shown
            self.add(name, str(error) if isinstance(error, RLHFError) else brief(error))
            return []

    def add(self, name: str, problem: str) -> None:
        """Add why a part, or a piece of it, could not be read."""
        self.problems[name] = f"{self.problems.get(name, '')} {problem}".strip()


def gather() -> TeamContent:
    """Return the content of the page as things are now.

    MLflow and Prefect are asked only where they answer. Raises RLHFError for a workspace that
    cannot be read.
    """
    workspace = begin()
    platform = read(workspace) or Platform(prefect_port=0, mlflow_port=0, pool="")
    parts = Parts()
    uri = workspace.tracking_uri.rstrip("/")
    has_mlflow = not uri.startswith("http") or answers(f"{uri}/health")
    has_prefect = answers(f"{platform.prefect_api}/health")
    runs, running = _runs(parts, workspace, platform)
    content = TeamContent(
        workspace=str(workspace.home),
        made=datetime.now(UTC),
        mlflow=page_base(uri) if has_mlflow else "",
        prefect=platform.prefect_url if has_prefect else "",
        services=[_service(platform, service) for service in platform.services.values()],
        running=running,
        live=parts.read("live", lambda: [_live(view(p)) for p in live_folders(workspace)]),
        waiting=_waiting(parts, workspace, platform, has_mlflow=has_mlflow),
        champions=parts.read("champions", champions) if has_mlflow else [],
        deployments=parts.read("deployments", _deployments) if has_prefect else [],
        runs=runs,
        problems=parts.problems,
    )
    if not has_mlflow:
        text = f"MLflow at {redacted(uri)} does not answer"
        parts.add("champions", f"{text}, and the champions are in its registry.")
        parts.add("waiting", f"{text}: candidates and labels that wait are not shown.")
    if not has_prefect:
        where = f" at {platform.prefect_url}" if platform.services else ""
        parts.add("deployments", f"Prefect's server{where} does not answer.")
    return content


def _runs(parts: Parts, workspace: "Workspace", platform: Platform) -> tuple[list, list]:
    found = parts.read("runs", lambda: latest_and_running(workspace, platform.mlflow_url))
    return (found[0], found[1]) if found else ([], [])


def _waiting(
    parts: Parts, workspace: "Workspace", platform: Platform, *, has_mlflow: bool
) -> list[WaitingItem]:
    found = parts.read("waiting", lambda: waiting.given_up(platform))
    found += parts.read("waiting", lambda: waiting.approvals(workspace, platform))
    if has_mlflow:
        found += parts.read("waiting", lambda: waiting.proposals(tracking_client()))
        found += parts.read("waiting", lambda: waiting.labels(workspace))
    return found + parts.read("waiting", lambda: waiting.unsent(workspace))


def _deployments() -> list[dict[str, str]]:
    from flows.schedule.listing import listing  # Prefect, which takes seconds

    return listing()


def _service(platform: Platform, service: Service) -> ServiceItem:
    links = {
        "prefect": platform.prefect_url,
        "mlflow": platform.mlflow_url,
        "page": platform.page_url,
    }
    others = {"worker": f"pool {platform.pool}", KEEPER: "starts again what dies"}
    state = service_state(platform, service)
    tone: Tone = "bad" if not service.runs else "good" if state == "well" else "warn"
    return ServiceItem(
        name=service.name,
        state=state,
        tone=tone,
        where=links.get(service.name, others.get(service.name, "")),
        href=links.get(service.name, ""),
        log=str(service.log),
    )


def _live(found: LiveView) -> LiveItem:
    state = "answers" if found.answers else "does not answer"
    return LiveItem(
        name=found.name,
        state=found.problem.splitlines()[0] if found.problem else state,
        tone="warn" if found.problem else "good" if found.answers else "bad",
        address=found.address,
        versions=tuple(f"version {s.version}: {s.share}%, {s.health}" for s in found.servers),
        since=found.since,
    )
