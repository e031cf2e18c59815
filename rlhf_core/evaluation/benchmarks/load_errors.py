"""The errors of a benchmark that lm-eval cannot load: a task to correct, or a hub that is away."""

from collections.abc import Iterator

from rlhf_core.data.sources.hub import is_offline
from rlhf_core.errors import BadInput, StageFailed

_AWAY = (ConnectionError, TimeoutError)
_AWAY_NAMES = ("TransportError", "ConnectionError", "Timeout")  # of httpx and requests
_BUSY = 429  # the status of a hub that asks to come back later


def not_loaded(name: str, where: str, error: Exception) -> BadInput | StageFailed:
    """Return the error of a benchmark that cannot be loaded, with the cause behind `error`.

    where: its folder, and its data files where they are local. StageFailed, which is retried, where
    a hub does not answer.
    """
    causes = [*_causes(error)]
    reason = _describe(causes[-1])
    if any(map(_is_away, causes)) and not is_offline():
        return StageFailed(
            f"the benchmark {name} of {where} cannot be loaded, because the hub of its data does"
            f" not answer ({reason})."
        )
    return BadInput(
        f"the benchmark {name} of {where} cannot be loaded ({reason}); expected a task of lm-eval"
        " whose data are here, or on a hub that answers. Correct the task or its data, or"
        " evaluate.benchmarks.tasks."
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _describe(error: BaseException) -> str:
    if isinstance(error, StopIteration):  # how `datasets` says that it has read no row
        return "its data have no rows"
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.300}"


def _is_away(error: BaseException) -> bool:
    """Return True for an error of the connection, or a status by which a server asks to wait."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    kinds = [kind.__name__ for kind in type(error).__mro__]
    return (
        isinstance(error, _AWAY)
        or any(name in kinds for name in _AWAY_NAMES)
        or status == _BUSY
        or status >= 500
    )
