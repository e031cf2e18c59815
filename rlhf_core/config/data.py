"""Where rows come from, and what they must be like."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from rlhf_core.config.fields import Config, Positive, Severity, Share


class Source(Config):
    """Where rows come from. A plain string is short for `{path = "..."}`."""

    path: str = Field(
        description=(
            "File, folder of a saved dataset, or hub name. '{prepared}' is the prepare stage's"
            " output."
        )
    )
    format: Literal["auto", "jsonl", "json", "csv", "parquet", "arrow", "saved", "hub"] = Field(
        "auto",
        description=(
            "'auto' goes by the file's ending; a folder is a saved dataset; anything else a hub"
            " name"
        ),
    )
    split: str = Field("train", description="Split of a hub or saved dataset")
    columns: dict[str, str] = Field(
        {}, description="Canonical name -> column name in the file, e.g. {prompt = 'question'}"
    )
    limit: int | None = Field(
        None, gt=0, description="Use only the first rows, counted in the file's order"
    )


def _source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


SourceField = Annotated[Source, BeforeValidator(_source)]


class Rules(Config):
    """Validation rules. Severity 'error' stops the pipeline (exit 2), 'warning' is recorded."""

    min_demonstrations: Positive = Field(
        50, description="Training demonstrations that must be left, rows"
    )
    min_comparisons: Positive = Field(
        100, description="Training comparisons that must be left, rows"
    )
    min_heldout: Positive = Field(20, description="Rows that every held-out split must keep")
    max_share_dropped: Share = Field(
        0.2, description="Share of a source's rows that may go to quarantine"
    )
    share_dropped: Severity = "error"
    empty_text: Severity = Field(
        "error", description="A null or empty text in more rows than max_share_dropped allows"
    )
    leakage: Severity = Field(
        "error", description="A prompt in both training and held-out files given by the user"
    )
    duplicates: Severity = Field(
        "warning", description="The same row twice (the later one is quarantined)"
    )
    contradictions: Severity = Field(
        "warning", description="The same pair labelled both ways (both are quarantined)"
    )
    chosen_equals_rejected: Severity = Field(
        "warning", description="A pair of equal texts (quarantined)"
    )
    length: Severity = Field("warning", description="Rows over the token limits (quarantined)")
    max_longer_wins: Share = Field(
        0.8, description="Share of pairs in which the longer answer may be the chosen one"
    )
    longer_wins: Severity = "warning"
    min_annotator_agreement: Share = Field(
        0.6, description="Mean share of votes that side with the majority"
    )
    annotator_agreement: Severity = "warning"


class Data(Config):
    demonstrations: SourceField
    demonstrations_heldout: SourceField | None = Field(
        None, description="None: split off by prompt"
    )
    comparisons: SourceField
    comparisons_heldout: SourceField | None = Field(None, description="None: split off by prompt")
    prompts: SourceField | None = Field(
        None, description="Rollout prompts; None: the prompts of the training comparisons"
    )
    prompts_heldout: SourceField | None = Field(
        None, description="None: the prompts of the held-out comparisons"
    )
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Share of prompts held out by hash"
    )
    max_prompt_tokens: Positive = Field(
        256, description="Longer prompts are quarantined, tokens, template included"
    )
    max_response_tokens: Positive = Field(
        256, description="Longer responses are quarantined, tokens, EOS included"
    )
    rules: Rules = Rules()
