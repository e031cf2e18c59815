"""The check that each item of a benchmark has a right answer, before anything trains.

lm-eval takes a column that does not exist for a text, and an answer that is none of an item's
choices for one that no model finds. Every model then scores 0 on it, with a warning in the log. The
difference of two models is 0 too, so that a gate on it passes.
"""

import re
from numbers import Integral
from typing import Any

from lm_eval.api.task import ConfigurableTask

from rlhf_core.errors import BadInput
from rlhf_core.evaluation.benchmarks.harness import LoadedTask

FIELDS = ("doc_to_text", "doc_to_choice", "doc_to_target")
_WORD = re.compile(r"[A-Za-z_]\w*")


def require_right_answers(task: LoadedTask) -> None:
    """Raise BadInput for an item without a question or a right answer among its choices.

    Tasks whose questions and answers are made by Python code of their own class are left alone.
    """
    for leaf in task.leaves.values():
        if isinstance(leaf, ConfigurableTask):
            _require_columns(task.name, leaf)
            for number, item in enumerate(leaf.eval_docs):
                _require_answer(task.name, leaf, number, item)


def _require_columns(name: str, leaf: ConfigurableTask) -> None:
    """Raise BadInput for a single word that is meant to be a column, and is none."""
    for field in FIELDS:
        value = getattr(leaf.config, field, None)
        if isinstance(value, str) and _WORD.fullmatch(value) and value not in leaf.features:
            raise BadInput(
                f"the benchmark {name} has {field}: {value}, which is no column of its items;"
                f" expected one of {', '.join(sorted(leaf.features))}, or a template such as"
                " {{question}}. Correct the task file."
            )


def _require_answer(name: str, leaf: ConfigurableTask, number: int, item: dict[str, Any]) -> None:
    try:
        text, right = leaf.doc_to_text(item), leaf.doc_to_target(item)
        chooses = leaf.OUTPUT_TYPE == "multiple_choice"
        choices = leaf.doc_to_choice(item) if chooses else []
    except Exception as error:  # of a template, or of the task's own code
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"
        raise BadInput(
            f"item {number} of the benchmark {name} gives no question and answer ({reason});"
            f" expected what {', '.join(FIELDS)} ask of each item. Correct the task file, or its"
            " rows."
        ) from error
    if chooses and not _are_choices(text if leaf.multiple_input else right, choices):
        raise BadInput(
            f"item {number} of the benchmark {name} has the right answer {right!r:.80}, which is"
            f" none of its {len(choices)} choices; expected the number of one, from 0, or its text."
            " Correct doc_to_target, or the row."
        )


def _are_choices(right: object, choices: list[str]) -> bool:
    """Return True if an answer, or each of several, is the number or the text of a choice."""
    if isinstance(right, list):
        return bool(right) and all(_are_choices(one, choices) for one in right)
    if isinstance(right, Integral):
        return 0 <= int(right) < len(choices)
    return right in choices
