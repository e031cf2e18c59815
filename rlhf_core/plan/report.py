"""A plan as a table, as text and as JSON values."""

from rlhf_core.config import Recipe
from rlhf_core.plan.layout import longest_row
from rlhf_core.plan.memory import HALF, kv_bytes_per_token
from rlhf_core.plan.remedies import Remedy
from rlhf_core.plan.stage_plan import MEMORY_KINDS, CheckpointPlan, StageModels, StagePlan
from rlhf_core.plan.strategy import GIB

ROLES = ("actor", "critic", "reward", "reference")


def half_weights_gb(models: StageModels) -> dict[str, float]:
    """Return the weights of the four models at 2 bytes per parameter, in GB (10^9 bytes)."""
    parameters = {
        role: models.reward.scalar if role in ("critic", "reward") else models.policy.policy
        for role in ROLES
    }
    return {role: HALF * count / 1e9 for role, count in parameters.items()}


def fit_text(plan: StagePlan) -> str:
    """Return 'fits, N GiB to spare' or 'does not fit by N GiB'."""
    if plan.fits:
        return f"fits, {plan.spare / GIB:,.1f} GiB to spare"
    return f"does not fit by {-plan.spare / GIB:,.1f} GiB"


def checkpoint_text(plan: CheckpointPlan) -> str:
    """Return what a stage's checkpoints take on disk, and in main memory."""
    each = plan.size / GIB
    text = (
        f"Checkpoints: {plan.disk / GIB:,.2f} GiB on disk: {plan.kept} kept and one being written,"
        f" {each:,.2f} GiB each"
    )
    return f"{text}; that one is in main memory too." if plan.copied else f"{text}."


def table_rows(plan: StagePlan) -> list[tuple[str, dict[str, float], set[str]]]:
    """Return each model, its bytes by kind, and the kinds that it does not hold at the peak.

    For kinds that are not held at the peak, the bytes are the most of any phase.
    """
    result: list[tuple[str, dict[str, float], set[str]]] = []
    for model in dict.fromkeys(part.model for part in plan.parts):
        own = [part for part in plan.parts if part.model == model]
        sizes: dict[str, float] = {}
        elsewhere: set[str] = set()
        for kind in MEMORY_KINDS:
            parts = [part for part in own if part.kind == kind]
            sizes[kind] = sum(part.bytes for part in parts if part.held_in(plan.peak_phase))
            if parts and not sizes[kind]:
                sizes[kind] = max(
                    sum(p.bytes for p in parts if p.held_in(phase)) for phase in plan.phases
                )
                elsewhere.add(kind)
        result.append((model, sizes, elsewhere))
    return result


def cache_capacity(recipe: Recipe, models: StageModels, plan: StagePlan) -> tuple[int, int] | None:
    """Return the tokens that the sampler's cache holds, and the number of longest rows.

    None for a stage without a sampler.
    """
    if not any(part.kind == "KV cache" for part in plan.parts):
        return None
    tokens = plan.strategy.kv_cache_mib * 2**20 // kv_bytes_per_token(models.policy, plan.strategy)
    return tokens, tokens // longest_row(recipe, plan.stage)


def plan_as_json(plan: StagePlan, remedies: list[Remedy]) -> dict:
    """Return the JSON values of one stage. Sizes are bytes on one device."""
    values = {
        "stage": plan.stage,
        "fits": plan.fits,
        "peak_bytes": round(plan.peak),
        "capacity_bytes": plan.hardware.capacity,
        "spare_bytes": round(plan.spare),
        "overhead_bytes": plan.hardware.overhead,
        "peak_phase": plan.peak_phase,
        "phases": {
            phase: round(plan.bytes_in(phase) + plan.hardware.overhead) for phase in plan.phases
        },
        "parts": [
            {
                "model": part.model,
                "kind": part.kind,
                "bytes": round(part.bytes),
                "phases": part.phases,
            }
            for part in plan.parts
        ],
    }
    if plan.checkpoints:
        values["checkpoint_bytes"] = plan.checkpoints.size
        values["checkpoint_disk_bytes"] = plan.checkpoints.disk
        values["checkpoint_copy_bytes"] = plan.checkpoints.size if plan.checkpoints.copied else 0
    return values | {"remedies": [_remedy_json(remedy) for remedy in remedies]}


def _remedy_json(remedy: Remedy) -> dict:
    return {
        "devices": remedy.plan.strategy.devices,
        "peak_bytes": round(remedy.plan.peak),
        "host_bytes": round(remedy.plan.host),
        "changes": [
            {"text": change.text, "option": change.option or None} for change in remedy.changes
        ],
    }
