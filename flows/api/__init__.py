"""The pipeline from Python: `from flows import api as rlhf`.

Each function does what the command of its name does, and both share the code beneath. Errors are
those of the project, never SystemExit: BadInput, GateRefused, PromotionRefused, StageFailed. What
is imported here is stable; everything else below `flows` may change.
"""

from flows.api.champions import ReigningChampion, champions
from flows.api.comparisons import RunComparison, compare, lineage
from flows.api.costs import Costs, cost
from flows.api.error_codes import ErrorCode, error_codes, explain
from flows.api.labelling import (
    LabelCampaign,
    LabelOptions,
    VoteOptions,
    campaign,
    import_labels,
    open_campaign,
)
from flows.api.leaderboards import Leaderboard, leaderboard
from flows.api.parameter_sweeps import SweepOptions, sweep
from flows.api.pipeline_runs import open_run, run, runs
from flows.api.registered_models import ModelRegistry, PromotionOptions, registry
from flows.api.removals import remove_runs
from flows.api.run_view import Run
from rlhf_core.errors import (
    BadInput,
    ConfigError,
    GateRefused,
    PromotionRefused,
    RLHFError,
    StageFailed,
)

__all__ = [
    "BadInput",
    "ConfigError",
    "Costs",
    "ErrorCode",
    "GateRefused",
    "LabelCampaign",
    "LabelOptions",
    "Leaderboard",
    "ModelRegistry",
    "PromotionOptions",
    "PromotionRefused",
    "RLHFError",
    "ReigningChampion",
    "Run",
    "RunComparison",
    "StageFailed",
    "SweepOptions",
    "VoteOptions",
    "campaign",
    "champions",
    "compare",
    "cost",
    "error_codes",
    "explain",
    "import_labels",
    "leaderboard",
    "lineage",
    "open_campaign",
    "open_run",
    "registry",
    "remove_runs",
    "run",
    "runs",
    "sweep",
]
