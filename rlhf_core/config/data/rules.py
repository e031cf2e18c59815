"""The rules that rows must meet: the section data.rules."""

from typing import Annotated

from pydantic import Field, model_validator

from rlhf_core.config.fields import Config, Positive, Severity, Share

_REMOVED = {  # key of a former rule -> key of its successor
    "min_annotator_agreement": "min_annotator_alpha",
    "annotator_agreement": "annotator_alpha",
}


class Rules(Config):
    """Validation rules. Severity 'error' stops the pipeline (exit 2), 'warning' is recorded."""

    min_demonstrations: Positive = Field(
        50, description="Training demonstrations that must remain after all rules, rows."
    )
    min_comparisons: Positive = Field(
        100, description="Training comparisons that must remain after all rules, rows."
    )
    min_feedback: Positive = Field(
        100,
        exclude_if=lambda value: value == 100,
        description="Training replies with a label that must remain after all rules, rows.",
    )
    min_heldout: Positive = Field(
        20, description="Rows that must remain in every held-out split after all rules."
    )
    max_share_dropped: Share = Field(
        0.2, description="Largest share of a source's rows that may go to quarantine."
    )
    share_dropped: Severity = Field(
        "error", description="Severity of more quarantined rows than max_share_dropped allows."
    )
    empty_text: Severity = Field(
        "error",
        description=(
            "Severity of a null or empty text in more rows than max_share_dropped allows."
        ),
    )
    leakage: Severity = Field(
        "error",
        description=(
            "Severity of a prompt that is in both the training and the held-out files that the"
            " user gave."
        ),
    )
    near_duplicates: Severity = Field(
        "warning",
        description=(
            "Severity of a training prompt that nearly repeats a held-out one, or has its first"
            " user turn. The row is kept."
        ),
    )
    duplicates: Severity = Field(
        "warning", description="Severity of a row that occurs twice. The later one is quarantined."
    )
    contradictions: Severity = Field(
        "warning",
        description=(
            "Severity of a pair, or of a reply of the feedback, that is labelled both ways. All its"
            " rows are quarantined."
        ),
    )
    chosen_equals_rejected: Severity = Field(
        "warning", description="Severity of a pair of equal texts. The pair is quarantined."
    )
    score_contradictions: Severity = Field(
        "warning",
        description=(
            "Severity of a pair whose own scores, margin or votes prefer the rejected answer. The"
            " pair is quarantined."
        ),
    )
    equal_scores: Severity = Field(
        "warning", description="Severity of a pair with two equal scores. The pair is kept."
    )
    special_tokens: Severity = Field(
        "warning",
        description=(
            "Severity of a text that spells one of the tokenizer's special tokens. The row is kept,"
            " and its text stays text."
        ),
    )
    end_of_turn: Severity = Field(
        "warning",
        description=(
            "Severity of a chat template that writes no token after an answer. eos_token ends"
            " replies then, and earlier answers of a dialogue lack it."
        ),
    )
    unused_columns: Severity = Field(
        "warning",
        description="Severity of a text in a column that no stage reads. The row is kept.",
    )
    length: Severity = Field(
        "warning", description="Severity of a row over the token limits. The row is quarantined."
    )
    truncated: Severity = Field(
        "warning",
        description=(
            "Severity of a prompt that data.overlong = 'truncate_left' has shortened. The row is"
            " kept."
        ),
    )
    max_longer_wins: Share = Field(
        0.8,
        description=(
            "Largest share of pairs in which the longer answer is the chosen one, and of feedback"
            " in which a thumbs-up reply is longer than a thumbs-down one."
        ),
    )
    longer_wins: Severity = Field(
        "warning", description="Severity of a share above max_longer_wins."
    )
    min_label_share: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.1,
        exclude_if=lambda value: value == 0.1,
        description="Smallest share of the rarer label in the feedback.",
    )
    label_share: Severity = Field(
        "warning",
        exclude_if=lambda value: value == "warning",
        description="Severity of a share below min_label_share.",
    )
    min_annotator_alpha: Annotated[float, Field(ge=-1, le=1)] = Field(
        0.2,
        description=(
            "Smallest lower end of the 95% interval of Krippendorff's alpha, the agreement of the"
            " votes: 0 is guessing, 1 is perfect."
        ),
    )
    annotator_alpha: Severity = Field(
        "warning", description="Severity of a lower end below min_annotator_alpha."
    )

    @model_validator(mode="before")
    @classmethod
    def _explain_removed(cls, values: object) -> object:
        given = values if isinstance(values, dict) else {}
        for old, new in _REMOVED.items():
            if old in given:
                raise ValueError(
                    f"{old} is no rule any more, because guessing alone brings the share of the"
                    f" majority to 0.75 with two votes; expected {new}, of Krippendorff's alpha (0"
                    " is guessing, 1 is perfect)"
                )
        return values
