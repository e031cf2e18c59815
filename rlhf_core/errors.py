"""The error tree. A message says what was found, what was expected and what to do."""


class RLHFError(Exception):
    """Anything this project raises on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class BadInput(RLHFError):
    """Data, a model or a file that cannot be used as given. Never retried."""

    exit_code = 2


class ConfigError(BadInput):
    """A recipe key or value that is not allowed."""


class GateRefused(RLHFError):
    """A measured value did not pass its gate. Never retried."""

    exit_code = 3


class Diverged(GateRefused):
    """Training left its bounds: a non-finite value, or KL beyond the budget."""


class PromotionRefused(GateRefused):
    """An alias may not be moved: a missing record, other bytes, another promoter, or aliases that
    were moved by hand.
    """


class StageFailed(RLHFError):
    """A stage process ended for a reason that is nobody's input: killed, out of memory, a bug.
    Retried.
    """
