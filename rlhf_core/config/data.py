"""The data section: the sources of rows, and the rules that the rows must meet."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from rlhf_core.config.fields import Config, Positive, Severity, Share


def _is_none(value: object) -> bool:
    return value is None


class Source(Config):
    """One source of rows. A plain string is short for `{path = "..."}`."""

    path: str = Field(
        description=(
            "File, folder, pattern of files such as 'shards/*.jsonl.gz', or hub name. '{prepared}'"
            " stands for the output of the prepare stage."
        )
    )
    format: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "saved", "hub"] = (
        Field(
            "auto",
            description=(
                "File format. 'auto' goes by the file's ending, takes a folder for a saved dataset"
                " or for shards of one format, and anything else for a hub name. Text may be"
                " compressed by gzip, zstd, bzip2 or xz."
            ),
        )
    )
    config: str | None = Field(
        None,
        exclude_if=_is_none,
        description="Configuration of a hub data set. None: its default, or the only one.",
    )
    revision: str | None = Field(
        None,
        exclude_if=_is_none,
        description=(
            "Branch, tag or commit of a hub data set. None: the default branch. The record and the"
            " lineage have the commit."
        ),
    )
    split: str = Field(
        "train",
        description=(
            "Split to read from a hub or saved dataset, or from a folder of shards whose names"
            " say train, validation or test."
        ),
    )
    columns: dict[str, str] = Field(
        {},
        description=(
            "Canonical column name -> column name in the file, e.g. {prompt = 'question'}."
        ),
    )
    ignore: tuple[str, ...] = Field(
        (),
        description=(
            "Columns, and keys of messages, that are left out, e.g. a `context` that no model is to"
            " read."
        ),
    )
    limit: int | None = Field(
        None,
        gt=0,
        description="Use only this number of rows, the first in the file's order. None: use all.",
    )


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


_REMOVED = {  # key of a former rule -> key of its successor
    "min_annotator_agreement": "min_annotator_alpha",
    "annotator_agreement": "annotator_alpha",
}
SourceField = Annotated[Source, BeforeValidator(_as_source)]


class Rules(Config):
    """Validation rules. Severity 'error' stops the pipeline (exit 2), 'warning' is recorded."""

    min_demonstrations: Positive = Field(
        50, description="Training demonstrations that must remain after all rules, rows."
    )
    min_comparisons: Positive = Field(
        100, description="Training comparisons that must remain after all rules, rows."
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
        description="Severity of a pair that is labelled both ways. Both rows are quarantined.",
    )
    chosen_equals_rejected: Severity = Field(
        "warning", description="Severity of a pair of equal texts. The pair is quarantined."
    )
    score_contradictions: Severity = Field(
        "warning",
        description=(
            "Severity of a pair whose own scores or margin prefer the rejected answer. The pair is"
            " quarantined."
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
        0.8, description="Largest share of pairs in which the longer answer is the chosen one."
    )
    longer_wins: Severity = Field(
        "warning", description="Severity of a share above max_longer_wins."
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


class Data(Config):
    """The sources of a recipe, how they are split, and the limits of a row."""

    demonstrations: SourceField = Field(
        description="Prompts with good responses, for supervised fine-tuning."
    )
    demonstrations_heldout: SourceField | None = Field(
        None, description="Held-out demonstrations. None: split off by hash."
    )
    comparisons: SourceField = Field(
        description="Prompts with a chosen and a rejected response, for the reward model or DPO."
    )
    comparisons_heldout: SourceField | None = Field(
        None, description="Held-out comparisons. None: split off by hash."
    )
    prompts: SourceField | None = Field(
        None, description="Rollout prompts. None: the prompts of the training comparisons."
    )
    prompts_heldout: SourceField | None = Field(
        None, description="Prompts of the evaluation. None: those of the held-out comparisons."
    )
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Share of prompts (see split_by) that are held out, by hash."
    )
    split_seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        1,
        description=(
            "Seed of the choice of held-out prompts. It is not `seed`, so that runs with different"
            " seeds hold out the same prompts."
        ),
    )
    split_by: Literal["prompt", "root", "cluster"] = Field(
        "root",
        description=(
            "What stays on one side of a split by hash. 'prompt': rows with one prompt. 'root':"
            " conversations with one first user turn. 'cluster': these, and near-duplicate prompts."
        ),
    )
    near_duplicate_similarity: Annotated[float, Field(ge=0.5, le=0.95)] = Field(
        0.8,
        description=(
            "Jaccard similarity of their runs of three words from which two prompts are near"
            " duplicates."
        ),
    )
    max_prompt_tokens: Positive = Field(
        256, description="Longest prompt, tokens, the chat template included. Longer: see overlong."
    )
    max_response_tokens: Positive = Field(
        256, description="Longest response, tokens, the end of text included. Longer: see overlong."
    )
    overlong: Literal["drop", "truncate_left", "error"] = Field(
        "drop",
        description=(
            "Rows over a limit. 'drop': they go to quarantine. 'truncate_left': a prompt loses its"
            " oldest turns, then the beginning of its last user turn; the system message stays, and"
            " a row with a longer response goes to quarantine. 'error': a single one refuses the"
            " data."
        ),
    )
    rules: Rules = Field(Rules(), description="Rules that the rows must meet.")

    @property
    def checked_rules(self) -> Rules:
        """The rules as they are applied: overlong = 'error' makes the limits an error."""
        if self.overlong != "error":
            return self.rules
        return self.rules.model_copy(update={"length": "error"})
