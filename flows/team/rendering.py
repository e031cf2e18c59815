"""Write the team's page as HTML. Everything that comes from runs and people is escaped."""

from datetime import datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flows.team.content import MOST_RUNS, TeamContent

FOLDER = Path(__file__).parent
LINKS = ("http://", "https://")


def render(content: TeamContent) -> str:
    """Return the page as an HTML document."""
    return _environment().get_template("team.html.jinja").render(page=content, most=MOST_RUNS)


@cache
def _environment() -> Environment:
    from flows.schedule.listing import COLUMNS  # Prefect, which takes seconds

    made = Environment(
        autoescape=True,
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"local": local, "is_link": is_link}
    made.globals["columns"] = COLUMNS
    return made


def local(time: datetime) -> str:
    """Return a time in the zone of this machine, with the zone's name."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M %Z")


def is_link(address: str) -> bool:
    """Return True for an address that a browser may follow: a script is none."""
    return address.startswith(LINKS)
