"""The Prefect task that registers the policy and promotes it when it has earned that."""

import logging
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
from tasks.registry import smoke_test, versions
from tasks.run_context import RunContext, StageOutput
from tasks.run_result import row_of
from tasks.run_stage import is_infrastructure
from tasks.tracking.address import redacted
from tasks.tracking.client import brief

log = logging.getLogger("rlhf.promotion")


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
    wanted = context.recipe.registry
    registry = RegistryAliases(tracker.client, context.workspace, wanted.name)
    reason = f"pipeline run {context.record.name}"
    result = _promoted(registry, model, version, reason, separate=wanted.separate_promoter)
    seconds = time.monotonic() - started
    tracker.keep_promotion(PromotionRecord(**asdict(result), seconds=seconds))
    create_markdown_artifact(result.reason, key="promotion")
    events.emit(events.StepEnded(row_of(tracker.record, PROMOTE)))
    return result


def _promoted(
    registry: RegistryAliases, model: str, version: str, reason: str, *, separate: bool
) -> PromotionResult:
    """Promote the version, or propose it to a separate promoter."""
    try:
        if separate:
            result = propose(registry, version, reason)
        else:
            result = promote_in_turn(registry, PromotionRequest(version=version, reason=reason))
    except ContestLost as lost:
        result = PromotionResult(model, version, False, str(lost))
    except RLHFError:
        raise
    except Exception as error:
        raise StageFailed(
            f"the promotion of version {version} of {model} broke off: {brief(error)}"
        ) from error
    if not separate:  # the copy of a candidate is another version
        _record_smoke_tests(registry, version)
    return result


def _record_smoke_tests(registry: RegistryAliases, version: str) -> None:
    """Have a smoke test of the policy and its reward model recorded, if the promotion made none.

    Then both can be promoted from where there is no torch.
    """
    try:
        found = [registry.version("policy", version)]
        if reward := found[0].tags.get("reward_version"):
            found.append(registry.version("reward", reward))
        for one in found:
            if smoke_test.recorded(one) is None:
                with versions.served_files(registry.workspace, one) as folder:
                    smoke_test.smoke_test(registry.client, one, folder)
    except Exception as error:
        log.warning("no smoke test of version %s is recorded: %s", version, brief(error))
