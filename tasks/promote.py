"""promote: register the policy, and move the alias 'champion' to it when it has earned that."""

import time
from dataclasses import asdict

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from rlhf_core.errors import StageFailed
from tasks import evaluate, events, registry
from tasks.gates import registration
from tasks.registry import Contest, PromotionResult
from tasks.session import Row, Session
from tasks.stage import is_infrastructure

WIN_RATE = "eval/win_rate_vs_champion"


@task(
    task_run_name="promote", retries=1, retry_delay_seconds=2, retry_condition_fn=is_infrastructure,
    cache_policy=NO_CACHE, persist_result=False,
)  # fmt: skip
def promote(session: Session) -> PromotionResult:
    """Register and promote the session's policy. Raises StageFailed when MLflow cannot be reached."""
    started = time.monotonic()
    policy = registration(session, "policy", "ppo", session.decisions)
    tracker, record = session.tracker, session.tracker.record
    if policy.model not in {item.model for item in record.registrations}:
        tracker.register(policy)
    if not tracker.retry():
        raise StageFailed(
            f"MLflow at {record.tracking_uri} is not up to date ({tracker.problem}), so nothing was promoted. "
            "Everything trained is kept: run the recipe again when MLflow answers, and only the promotion is left to do."
        )
    versions = {item.model: item.version for item in record.registrations}
    result = registry.promote(tracker.client, session.workspace, policy.model, versions[policy.model], _contest(session))
    if result.promoted:
        reward = f"{session.recipe.registry.name}-reward"
        tracker.client.set_registered_model_alias(reward, registry.CHAMPION, versions[reward])
    return _tell(session, result, time.monotonic() - started)


def _contest(session: Session) -> Contest:
    rival = evaluate.spec(session.recipe, session.have).inputs.get("champion")
    return Contest(
        passed=all(decision.passed for decision in session.decisions),
        win_rate=session.results["evaluate"].metrics.get(WIN_RATE),
        champion=rival.digest if rival else None,
        required=session.recipe.registry.min_win_rate_vs_champion,
    )


def _tell(session: Session, result: PromotionResult, seconds: float) -> PromotionResult:
    session.promotion = result
    session.tracker.record.promotion = asdict(result)
    link = session.tracker.link()
    create_markdown_artifact(result.reason, key="promotion")
    events.emit(events.StageFinished("promote", seconds, {}, link=link))
    verdict = "promoted" if result.promoted else "not promoted"
    session.rows.append(Row("promote", seconds, None, None, verdict, link, None, cached=False))
    return result
