"""candidate: the policy that has passed its gates, registered with all its records, before anybody
decides on it.
"""

from rlhf_core.rundir import Artifact
from tasks.gate import registration
from tasks.promotion.eligibility import contest_record
from tasks.records.approval_record import SignOff
from tasks.records.run_record import Registration
from tasks.run_context import Session


def register(session: Session) -> str:
    """Have the policy registered, or its version's records renewed, as soon as MLflow is there; the
    model's name.
    """
    wanted = _registration(session)
    session.tracker.register(wanted)
    return wanted.model


def rival(session: Session) -> Artifact | None:
    """The champion that the policy was compared with; None without one, and for the champion
    itself.
    """
    champion = session.have.get("champion")
    return champion if champion and champion.digest != session.have["policy"].digest else None


def _registration(session: Session) -> Registration:
    """The policy with the verdicts of every stage, how it did against its rival, and where a
    person's approval stands.
    """
    decisions, tags, against = session.decisions, {}, rival(session)
    if against:
        required = session.recipe.registry.min_win_rate_vs_champion
        fight = contest_record(
            session.results["evaluate"], session.have["policy"].digest, against.digest, required
        )
        decisions, tags = [*decisions, fight], {"compared_with": against.digest}
    policy = registration(session, "policy", session.recipe.align, decisions)
    sign_off = SignOff(required=session.recipe.registry.approval.required, record=session.approval)
    return policy.model_copy(update={"tags": policy.tags | tags, "sign_off": sign_off})
