"""The splits of labelled rows that a stage learns from and is measured on."""

from rlhf_core.config.preference.feedback import LearnFrom
from rlhf_core.stage_catalogue import FEEDBACK, NEW_PAIRS, PAIRS
from tasks.stages.spec import Artifacts

_LEFT_OUT: dict[LearnFrom, tuple[str, ...]] = {
    "mixed": (),
    "feedback": (*PAIRS, *NEW_PAIRS),
    "comparisons": FEEDBACK,
}


def learnt_from(inputs: Artifacts, learn_from: LearnFrom) -> Artifacts:
    """Return a stage's inputs without the splits of the kind that it does not learn from."""
    left_out = _LEFT_OUT[learn_from]
    return {name: item for name, item in inputs.items() if name not in left_out}
