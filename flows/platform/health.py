"""Say in words how a service of the platform is, and what its keeper does about it."""

from datetime import UTC, datetime

from flows.platform.launch import is_well
from flows.platform.logs import last_line
from flows.platform.restarts import MOST_RESTARTS, WINDOW_SECONDS
from flows.platform.services import KEEPER
from flows.platform.state import Platform, Service, Trouble


def service_state(platform: Platform, service: Service) -> str:
    """Return the state of a service in some words: well, dead, and what its keeper does about it.

    A service that was given up shows the last line of its log.
    """
    trouble = platform.troubles.get(service.name)
    if service.runs:
        state = "well" if is_well(service) else "does not answer"
        return state if trouble is None else f"{state}, started again {_times(trouble)}"
    why = f" ({trouble.why})" if trouble and trouble.why else ""
    if trouble and trouble.given_up:
        line = last_line(service.log)
        return (
            f"has died {trouble.deaths} times, given up at {trouble.last.astimezone():%Y-%m-%d}"
            f" {_clock(trouble.last)} after {MOST_RESTARTS} restarts within"
            f" {WINDOW_SECONDS / 60:g} minutes{why}{f': {line:.200}' if line else ''}; rlhf up"
            " starts it"
        )
    if service.name == KEEPER or not platform.runs(KEEPER):
        return f"has died{why}: rlhf up starts it"
    if trouble is None or trouble.again is None or trouble.again <= datetime.now(UTC):
        return f"has died{why}: is started again once what it needs answers"
    return f"has died{why}: is started again at {_clock(trouble.again)}"


def _times(trouble: Trouble) -> str:
    count = "once" if trouble.deaths == 1 else f"{trouble.deaths} times"
    return f"{count}, last at {_clock(trouble.last)}{f' ({trouble.why})' if trouble.why else ''}"


def _clock(time: datetime) -> str:
    return time.astimezone().strftime("%H:%M:%S %Z")
