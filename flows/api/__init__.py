"""The pipeline from Python: `from flows import api as rlhf`.

Each function does what the command of its name does, and both share the code beneath. Errors are
those of the project, never SystemExit: BadInput, GateRefused, PromotionRefused, StageFailed. What
is imported here is stable; everything else below `flows` may change.
"""

from flows.api.error_codes import ErrorCode, error_codes, explain
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
    "ErrorCode",
    "GateRefused",
    "PromotionRefused",
    "RLHFError",
    "StageFailed",
    "error_codes",
    "explain",
]
