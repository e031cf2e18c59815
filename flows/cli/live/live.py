"""`rlhf live`: serve the champion, and a candidate beside it."""

import shlex
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson
from flows.cli.output import print_json
from flows.settings import quiet_libraries
from rlhf_core.errors import BadInput, GateRefused

if TYPE_CHECKING:
    from flows.platform.live.control import Tell
    from flows.platform.live.view import LiveView
    from flows.platform.live.wish import LiveWish

ACTIONS = ("status", "gate", "stop")

LiveTarget = Annotated[
    str,
    typer.Argument(
        metavar="NAME|status|gate|stop",
        help=(
            "registry.name of a recipe: serve its champion. status, stop: of all, or of one."
            " gate: judge the canary of one"
        ),
    ),
]
LiveName = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="With status, gate and stop: this one")
]
LivePort = Annotated[
    int | None, typer.Option(help="Port for clients (default: the last, 8000, or free)")
]
Canary = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=50,
        metavar="PERCENT",
        help="Requests that a candidate gets beside the champion; 0 ends it (default: as it is)",
    ),
]
Candidate = Annotated[
    str,
    typer.Option(
        metavar="VERSION|ALIAS",
        help="The candidate (default: the newest version whose gates passed, never champion)",
    ),
]
InGateway = Annotated[
    bool | None,
    typer.Option(
        "--gateway/--no-gateway",
        help="Also as an endpoint of MLflow's AI Gateway, which costs 10 ms and more per request",
        show_default=False,
    ),
]
LogRate = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="Keep this share of prompts and replies as traces in MLflow (default: none)",
    ),
]
Redaction = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="A function of a text that returns what may be kept of it, before it is written",
    ),
]
KeepDays = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="DAYS", help="Delete logged replies after so long (default: never)"
    ),
]
Shadow = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help=(
            "With --log: the candidate answers this share of the champion's kept requests too, for"
            " `gate` alone, which compares the two replies by the reward model (default: none)"
        ),
    ),
]
Thumb = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Name of people's feedback that `gate` counts (default: thumb)"
    ),
]
VLLMArguments = Annotated[
    str | None,
    typer.Option(
        "--vllm",
        metavar="ARGUMENTS",
        help='Further arguments of vLLM\'s servers, e.g. "--max-model-len 4096"',
    ),
]
Apply = Annotated[
    bool,
    typer.Option(
        "--apply", help="With gate: promote the candidate, or end the canary, as the verdict says"
    ),
]


def live(
    target: LiveTarget,
    name: LiveName = None,
    canary: Canary = None,
    candidate: Candidate = "",
    port: LivePort = None,
    gateway: InGateway = None,
    vllm: VLLMArguments = None,
    log: LogRate = None,
    redact: Redaction = None,
    keep_days: KeepDays = None,
    shadow: Shadow = None,
    thumb: Thumb = None,
    apply: Apply = False,
    as_json: AsJson = False,
) -> None:
    """Serve the champion with vLLM under one address; a candidate beside it.

    The servers keep running after this command has ended. When the alias champion moves, the new
    version is started, gets the requests once it answers, and the old one ends after its last
    reply. `status` shows what runs, `stop` ends it. A second call changes the canary.
    `gate` judges the candidate by its kept replies: forward, back (exit code 3) or continue.
    """
    from flows.platform.live import control, view
    from flows.platform.live.wish import LiveWish
    from tasks.records.workspace import Workspace

    quiet_libraries()
    tell = partial(print, file=sys.stderr, flush=True)
    wish = LiveWish(
        port, gateway, _words(vllm), canary, candidate, log, redact, keep_days, shadow, thumb
    )
    _require_fitting(target, name, apply, wish)
    if target == "gate":
        _gate(name, apply, tell, as_json)
    elif target == "status":
        found = [view.view(place) for place in view.require_live(Workspace.here(), name)]
        _print([asdict(each) for each in found] if as_json else found)
    elif target == "stop":
        places = view.require_live(Workspace.here(), name)
        stopped = {place.name: control.stop(place, tell) for place in places}
        if as_json:
            print_json({"stopped": stopped})
        else:
            print("\n".join(_stopped(*each) for each in stopped.items()) or "nothing is live")
    else:
        found_one, started = _start(target, wish, tell)
        _print([asdict(found_one) | {"changed": started}] if as_json else [found_one])


def _words(vllm: str | None) -> tuple[str, ...] | None:
    try:
        return None if vllm is None else tuple(shlex.split(vllm))
    except ValueError as error:
        raise BadInput(
            f"--vllm is {vllm!r}: {error}; expected arguments as in a shell, e.g."
            ' "--max-model-len 4096".'
        ) from None


def _require_fitting(target: str, name: str | None, apply: bool, wish: "LiveWish") -> None:
    """Raise BadInput for an option or a name that the action would not heed."""
    if apply and target != "gate":
        raise BadInput("--apply is for rlhf live gate NAME; expected no --apply here.")
    if target not in ACTIONS and name is not None:
        raise BadInput(
            f"rlhf live {target} {name} has two names; expected rlhf live NAME, or one of"
            f" {', '.join(ACTIONS)} before the name, as rlhf live status NAME."
        )
    if target in ACTIONS and (given := wish.given()):
        raise BadInput(
            f"rlhf live {target} was given {', '.join(given)}; expected"
            f" none. They are options of rlhf live NAME, and hold from its start on."
        )


def _start(name: str, wish: "LiveWish", tell: "Tell") -> "tuple[LiveView, bool]":
    from flows.platform.live import control
    from tasks.promotion.aliases import open_registry

    registry, _ = open_registry(name)
    return control.start(registry, wish, tell)


def _gate(name: str | None, apply: bool, tell: "Tell", as_json: bool) -> None:
    """Print the verdict on a canary.

    Raises GateRefused where it is to go back, and where its promotion is refused.
    """
    from flows.cli.output import UNFOLDED, console
    from flows.cli.tables.live_gate import verdict_table
    from flows.platform.live.gating import judge_canary
    from flows.platform.live.view import require_live
    from tasks.promotion.aliases import open_registry
    from tasks.records.workspace import Workspace

    if name is None:
        raise BadInput(
            "rlhf live gate has no name; expected one that is live: rlhf live gate NAME."
        )
    (place,) = require_live(Workspace.here(), name)
    registry, _ = open_registry(name)
    found = judge_canary(registry, place, apply=apply, tell=tell)
    if as_json:
        print_json(found.verdict.model_dump(mode="json") | {"done": found.done})
    else:
        done = "" if found.refusal else found.done  # the error says it
        if found.verdict.measures:
            console(UNFOLDED).print(verdict_table(found.verdict))
        for each in found.verdict.measures:
            if each.note:
                print(f"{each.name}: {each.note}")
        print("\n".join(filter(None, [f"{found.verdict.decision}: {found.verdict.reason}", done])))
    if found.refusal:
        raise found.refusal
    if found.verdict.decision == "back":
        raise GateRefused(found.verdict.reason)


def _stopped(name: str, versions: list[str]) -> str:
    return f"stopped: {name}, version {', '.join(versions) or 'none ran'}"


def _print(found: list) -> None:
    from flows.cli.tables.live import live_lines

    if found and isinstance(found[0], dict):
        print_json(found)
        return
    print("\n".join(line for each in found for line in live_lines(each)) or "nothing is live")
