"""promote: register the policy with all its records, and have it promoted when it has earned that."""

import time
from dataclasses import asdict

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from rlhf_core.errors import RLHFError, StageFailed
from tasks import registration
from tasks.promotion import promotion
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.eligibility import ContestLost
from tasks.promotion.promotion import PromotionRequest, PromotionResult
from tasks.records import events
from tasks.run_context import Row, Session
from tasks.run_stage import is_infrastructure
from tasks.tracking.client import brief


@task(
    task_run_name="promote",
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=is_infrastructure,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def promote(session: Session) -> PromotionResult:
    """Register and promote the session's policy. Raises StageFailed when MLflow cannot be reached,
    PromotionRefused.
    """
    started = time.monotonic()
    tracker, record = session.tracker, session.tracker.record
    model = registration.register(session)
    if not tracker.retry():
        raise StageFailed(
            f"MLflow at {record.tracking_uri} is not up to date ({tracker.problem}), so nothing was"
            " promoted. Everything trained is kept: run the recipe again when MLflow answers, and"
            " only the promotion is left to do."
        )
    version = next(item.version for item in record.registrations if item.model == model)
    return _tell(session, _promoted(session, model, version), time.monotonic() - started)


def _promoted(session: Session, model: str, version: str) -> PromotionResult:
    registry = RegistryAliases(
        session.tracker.client, session.workspace, session.recipe.registry.name
    )
    try:
        return promotion.promote(
            registry,
            PromotionRequest(version=version, reason=f"pipeline run {session.tracker.record.name}"),
        )
    except ContestLost as lost:
        return PromotionResult(model, version, False, str(lost))
    except RLHFError:
        raise
    except Exception as error:
        raise StageFailed(
            f"the promotion of version {version} of {model} broke off: {brief(error)}"
        ) from error


def _tell(session: Session, result: PromotionResult, seconds: float) -> PromotionResult:
    session.promotion = result
    session.tracker.record.promotion = asdict(result)
    link = session.tracker.link()
    create_markdown_artifact(result.reason, key="promotion")
    events.emit(events.StageFinished("promote", seconds, {}, link=link))
    verdict = "promoted" if result.promoted else "not promoted"
    session.rows.append(Row("promote", seconds, None, None, verdict, link, None, cached=False))
    return result
