"""The options of `rlhf live NAME`, beside what is live already."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime

from flows.platform.live.state import LiveOptions, LiveState
from flows.platform.pages import choose_port
from rlhf_core.errors import BadInput
from tasks.live.versions import require_candidate, wanted_versions
from tasks.promotion.aliases import RegistryAliases
from tasks.tracking.address import redacted

PORT = 8000  # of the address for clients, unless it is taken


@dataclass(frozen=True)
class LiveWish:
    """The options of `rlhf live NAME`; None and '': as it was, or the default.

    candidate: a version or alias; '': that of the canary that runs, else the newest version that
    may be one. log_rate, redact, keep_days, shadow, thumb: see LiveOptions.
    """

    port: int | None = None
    gateway: bool | None = None
    vllm: tuple[str, ...] | None = None
    canary: int | None = None
    candidate: str = ""
    log_rate: float | None = None
    redact: str | None = None
    keep_days: int | None = None
    shadow: float | None = None
    thumb: str | None = None

    def given(self) -> list[str]:
        """Return the options of the command line that are not left out."""
        kept = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        return ["--" + name.removesuffix("_rate").replace("_", "-") for name in kept]


def options_of(
    registry: RegistryAliases, wish: LiveWish, before: LiveOptions | None, state: LiveState | None
) -> LiveOptions:
    """Return the options of a wish; what it leaves out stays as it was."""
    if wish.candidate and not wish.canary:
        raise BadInput(
            f"--candidate is {wish.candidate}, and it would get no requests; expected their share"
            " too: --canary PERCENT."
        )
    if wish.thumb is not None and not wish.thumb.strip():
        raise BadInput("--thumb is empty; expected the name of people's feedback, e.g. thumb.")
    uri = registry.workspace.tracking_uri
    port = before.port if before else choose_port(None, PORT)
    port = port if wish.port is None else wish.port
    options = before or LiveOptions(name=registry.name, tracking_uri=uri, port=port)
    changes: dict[str, object] = {"tracking_uri": uri, "port": port}
    changes |= {} if wish.vllm is None else {"vllm": wish.vllm}
    for key in ("log_rate", "redact", "keep_days", "shadow", "thumb"):
        value = getattr(wish, key)
        changes |= {} if value is None else {key: value}
    changes |= {} if wish.gateway is None else {"gateway": wish.gateway}
    if wish.canary is not None:
        changes |= {"canary": wish.canary, "candidate": "", "asked": None}
        if wish.canary:
            champion = wanted_versions(registry).champion
            named = wish.candidate or present_candidate(before, state)
            candidate = require_candidate(registry, named, champion)
            asked = _asked(before, state, (wish.canary, candidate))
            changes |= {"candidate": candidate, "asked": asked}
    return options.model_copy(update=changes)


def present_candidate(before: LiveOptions | None, state: LiveState | None) -> str:
    """Return the candidate of the canary that runs, '' where none does."""
    if before is None or not before.canary or (state and before.asked == state.ended):
        return ""
    return before.candidate


def _asked(
    before: LiveOptions | None, state: LiveState | None, canary: tuple[int, str]
) -> datetime:
    """Return when a canary was asked for: now, unless the same one goes on."""
    if before is None or before.asked is None or (before.canary, before.candidate) != canary:
        return datetime.now(UTC)
    is_over = state is not None and before.asked == state.ended
    return datetime.now(UTC) if is_over else before.asked


def require_same(before: LiveOptions, now: LiveOptions) -> None:
    """Raise BadInput where more than the canary of a running model would change."""
    kept = {"candidate", "canary", "asked"}
    asked = now.model_dump(exclude=kept)
    differences = [
        f"{key} {_shown(value)}, asked for {_shown(asked[key])}"
        for key, value in before.model_dump(exclude=kept).items()
        if value != asked[key]
    ]
    if differences:
        raise BadInput(
            f"{before.name} is live with other options ({'; '.join(differences)}); run rlhf live"
            f" stop {before.name} first."
        )


def _shown(value: object) -> str:
    return redacted(str(value)) or "none"
