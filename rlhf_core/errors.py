"""The errors that this project raises on purpose.

A message says what was found, what was expected and what to do. The number is the exit code of the
command line. A code such as RLHF-F001 names the runbook's section on such errors: a class has one,
or the place that raises gives one. `rlhf explain CODE` prints the section, whose heading ends with
the code; a test compares codes and headings.

RLHFError                 1
 +- BadInput              2  never retried
 |   +- ConfigError       2
 +- GateRefused           3  never retried
 |   +- Diverged          3
 |   +- LimitReached      2  the recipe's limits are to be raised
 |   +- PromotionRefused  3
 +- StageFailed           1  retried
"""

LAST_LINES = 15  # of a log, quoted in a message


class RLHFError(Exception):
    """Base of all errors that this project raises on purpose.

    `exit_code` is the exit code of the command line. `code` names the runbook's section; '' where
    there is none.
    """

    exit_code = 1
    code = ""

    def __init__(self, message: object = "", *, code: str | None = None):
        super().__init__(message)
        if code is not None:
            self.code = code


class BadInput(RLHFError):
    """Data, a model or a file that cannot be used as given. Never retried."""

    exit_code = 2


class ConfigError(BadInput):
    """A recipe key or value that is not allowed."""


class GateRefused(RLHFError):
    """A measured value that did not pass its gate. Never retried."""

    exit_code = 3
    code = "RLHF-G001"


class Diverged(GateRefused):
    """Training that left its bounds: a non-finite value, or KL beyond the budget."""

    code = "RLHF-G002"


class LimitReached(GateRefused):
    """A run that has taken what its recipe allows; its last checkpoint is kept."""

    exit_code = 2
    code = "RLHF-G003"


class PromotionRefused(GateRefused):
    """An alias that may not be moved.

    Causes: a missing record, other bytes, another promoter, or aliases that were moved by hand.
    """

    code = ""  # not that of a gate: the message of each kind says what to do


class StageFailed(RLHFError):
    """A stage process that failed although its input is sound. Retried.

    Causes: it was killed, ran out of memory, or met a bug.
    """

    code = "RLHF-R001"
