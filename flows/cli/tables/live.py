"""Live models, a few lines each."""

from flows.platform.live.view import LiveView, ServerView


def live_lines(found: LiveView) -> list[str]:
    """Return the lines of one live model: where to send requests, its servers, its problem."""
    if found.since is None:
        return [f"{found.name} was not started to its end; rlhf live {found.name} starts it"]
    watched = "" if found.watched else f"; its watcher has died: rlhf live {found.name} starts it"
    lines = [
        f"{found.name} is live since {found.since:%Y-%m-%d %H:%M} UTC{watched}",
        f'  OpenAI clients: base address {found.address}, model "{found.name}"'
        + ("" if found.answers else " (does not answer)"),
        *([f"  by MLflow's AI Gateway: {found.gateway}"] if found.gateway else []),
        *(_server_line(server) for server in found.servers),
    ]
    return lines + ([f"  problem: {found.problem}"] if found.problem else [])


def _server_line(server: ServerView) -> str:
    return (
        f"  version {server.version:4} {server.share:3}%  {server.health:9}"
        f" {server.answered:6} answered"
        f"  {server.address}  process {server.pid}  {server.log}"
    )
