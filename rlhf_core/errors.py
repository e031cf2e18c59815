"""The errors that this project raises on purpose.

A message says what was found, what was expected and what to do. The number is the exit code of the
command line.

RLHFError                 1
 +- BadInput              2  never retried
 |   +- ConfigError       2
 +- GateRefused           3  never retried
 |   +- Diverged          3
 |   +- PromotionRefused  3
 +- StageFailed           1  retried
"""

LAST_LINES = 15  # of a log, quoted in a message


class RLHFError(Exception):
    """Base of all errors that this project raises on purpose.

    `exit_code` is the exit code of the command line.
    """

    exit_code = 1


class BadInput(RLHFError):
    """Data, a model or a file that cannot be used as given. Never retried."""

    exit_code = 2


class ConfigError(BadInput):
    """A recipe key or value that is not allowed."""


class GateRefused(RLHFError):
    """A measured value that did not pass its gate. Never retried."""

    exit_code = 3


class Diverged(GateRefused):
    """Training that left its bounds: a non-finite value, or KL beyond the budget."""


class PromotionRefused(GateRefused):
    """An alias that may not be moved.

    Causes: a missing record, other bytes, another promoter, or aliases that were moved by hand.
    """


class StageFailed(RLHFError):
    """A stage process that failed although its input is sound. Retried.

    Causes: it was killed, ran out of memory, or met a bug.
    """
