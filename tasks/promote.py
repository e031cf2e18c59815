"""The Prefect task that registers the policy and promotes it when it has earned that."""

import time
from dataclasses import asdict

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from rlhf_core.errors import RLHFError, StageFailed
from rlhf_core.stage_catalogue import PROMOTE
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.eligibility import ContestLost
from tasks.promotion.promotion import PromotionRequest, PromotionResult
from tasks.promotion.proposal import propose
from tasks.promotion.turn import promote_in_turn
from tasks.records import events
from tasks.records.promotion_record import PromotionRecord
from tasks.registration import register_policy
from tasks.run_context import RunContext, StageOutput
from tasks.run_result import row_of
from tasks.run_stage import is_infrastructure
from tasks.tracking.address import redacted
from tasks.tracking.client import brief


@task(
    task_run_name=PROMOTE,
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=is_infrastructure,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def promote(context: RunContext, evaluation: StageOutput) -> PromotionResult:
    """Register and promote the policy that was evaluated, or leave that to a separate promoter.

    Raises StageFailed when MLflow cannot be reached, PromotionRefused when a record is missing or
    does not match.
    """
    started, tracker = time.monotonic(), context.tracker
    model = register_policy(context, evaluation)
    if not tracker.retry():
        raise StageFailed(
            f"MLflow at {redacted(tracker.record.tracking_uri)} is not up to date"
            f" ({tracker.problem}), so nothing was promoted. Everything trained is kept: run the"
            " recipe again when MLflow answers, and only the promotion is left to do."
        )
    version = next(
        item.version
        for item in tracker.record.registrations
        if item.model == model and item.version
    )
    result = _promoted(context, model, version)
    seconds = time.monotonic() - started
    tracker.keep_promotion(PromotionRecord(**asdict(result), seconds=seconds))
    create_markdown_artifact(result.reason, key="promotion")
    events.emit(events.StepEnded(row_of(tracker.record, PROMOTE)))
    return result


def _promoted(context: RunContext, model: str, version: str) -> PromotionResult:
    registry = RegistryAliases(
        context.tracker.client, context.workspace, context.recipe.registry.name
    )
    reason = f"pipeline run {context.record.name}"
    try:
        if context.recipe.registry.separate_promoter:
            return propose(registry, version, reason)
        return promote_in_turn(registry, PromotionRequest(version=version, reason=reason))
    except ContestLost as lost:
        return PromotionResult(model, version, False, str(lost))
    except RLHFError:
        raise
    except Exception as error:
        raise StageFailed(
            f"the promotion of version {version} of {model} broke off: {brief(error)}"
        ) from error
