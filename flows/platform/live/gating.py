"""The live gate of a running canary: judge it, and act on the verdict."""

from dataclasses import dataclass

from flows.platform.live import control
from flows.platform.live.state import LiveFolder, LiveOptions
from flows.platform.live.wish import LiveWish, present_candidate
from rlhf_core.errors import BadInput, PromotionRefused
from rlhf_core.live.reply_log import ROLE
from rlhf_core.live.verdict import LiveVerdict
from rlhf_core.named_functions import load_function
from tasks.live import gate
from tasks.live.shadow import Shadowing
from tasks.promotion.aliases import RegistryAliases


@dataclass(frozen=True)
class GateOutcome:
    """The verdict on a canary. done: what followed from it, one sentence; '' for nothing.

    refusal: why a candidate that may go forward was not promoted; then the canary goes on.
    """

    verdict: LiveVerdict
    done: str = ""
    refusal: PromotionRefused | None = None


def judge_canary(
    registry: RegistryAliases, place: LiveFolder, *, apply: bool, tell: control.Tell
) -> GateOutcome:
    """Judge the canary of a live model by its kept replies; with `apply` act on the verdict.

    Raises BadInput where there is no canary or no reply of it is kept.
    """
    options = _require_canary(place)
    shadowing = _shadowing(place, options, tell) if options.shadow else None
    verdict = gate.judge(registry, options.candidate, options.keep_days, shadowing, options.thumb)
    if not verdict.candidate_n and not options.log_rate:
        raise BadInput(
            f"no reply of version {options.candidate} is kept, and {place.name} keeps none;"
            f" expected replies to judge. rlhf live stop {place.name}, then rlhf live {place.name}"
            f" --log 1 --canary {options.canary} --candidate {options.candidate}."
        )
    if not apply or verdict.decision == "continue":
        return GateOutcome(verdict)
    if verdict.decision == "forward":
        try:
            return GateOutcome(verdict, gate.forward(registry, verdict).reason)
        except PromotionRefused as refusal:
            return GateOutcome(verdict, f"The canary goes on: {refusal}", refusal)
    control.start(registry, LiveWish(canary=0), tell)  # first: nobody gets it any more
    number = gate.back(registry, verdict)
    done = f"The canary is over, and its server ends; entry {number} of the ledger says why."
    return GateOutcome(verdict, done)


def _shadowing(place: LiveFolder, options: LiveOptions, tell: control.Tell) -> Shadowing:
    """Return how the candidate answers the champion's kept requests, by the servers that run."""
    return Shadowing(
        share=options.shadow,
        routes={route.version: route for route in place.routes.read()},
        redact=load_function(options.redact, ROLE) if options.redact else None,
        tell=tell,
    )


def _require_canary(place: LiveFolder) -> LiveOptions:
    """Return the options of a live model with a canary. Raises BadInput for another."""
    options, state = place.options(), place.state()
    if options is None or not present_candidate(options, state):
        raise BadInput(
            f"{place.name} has no canary; expected a candidate that gets some of the requests."
            f" Start one: rlhf live {place.name} --canary 10."
        )
    return options
