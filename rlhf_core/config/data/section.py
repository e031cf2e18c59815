"""The data section: the sources of rows, and how they are split."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from rlhf_core.config.data.rules import Rules
from rlhf_core.config.data.source import Source, SourceField
from rlhf_core.config.fields import Config, Positive

NEW_COMPARISONS = "new_comparisons"


def _as_files(value: object) -> object:
    """Return one source as a list of one, and None as none."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str | dict | Source) else value


SourceFiles = Annotated[tuple[SourceField, ...], BeforeValidator(_as_files)]


class Data(Config):
    """The sources of a recipe, how they are split, and the limits of a row."""

    demonstrations: SourceField = Field(
        description="Prompts with good responses, for supervised fine-tuning."
    )
    demonstrations_heldout: SourceField | None = Field(
        None, description="Held-out demonstrations. None: split off by hash."
    )
    comparisons: SourceField | None = Field(
        None,
        description=(
            "Prompts with a chosen and a rejected response, for the reward model, DPO or KTO. None:"
            " feedback alone."
        ),
    )
    comparisons_heldout: SourceField | None = Field(
        None, description="Held-out comparisons. None: split off by hash."
    )
    feedback: SourceField | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description=(
            "Prompts with one response and its label, thumbs up or down, for KTO and the reward"
            " model. None: comparisons alone."
        ),
    )
    feedback_heldout: SourceField | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Held-out feedback. None: split off by hash.",
    )
    prompts: SourceField | None = Field(
        None,
        description=(
            "Rollout prompts. None: the prompts of the training comparisons, or else of the"
            " feedback."
        ),
    )
    prompts_heldout: SourceField | None = Field(
        None,
        description=(
            "Prompts of the evaluation. None: those of the held-out comparisons, or else of the"
            " feedback."
        ),
    )
    new_comparisons: SourceFiles = Field(
        (),
        exclude_if=lambda value: not value,
        description=(
            "Files of later labels, oldest first, in the format of comparisons: one file or a list."
            " heldout_fraction of their prompts is held out by split_seed and measured apart."
        ),
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
    heldout_folds: Positive = Field(
        1,
        exclude_if=lambda value: value == 1,
        description=(
            "Disjoint held-out sets that are set aside, each a share of heldout_fraction. One is in"
            " use, heldout_fold; those after it are a reserve that trains and measures nothing."
        ),
    )
    heldout_fold: Positive = Field(
        1,
        exclude_if=lambda value: value == 1,
        description=(
            "Held-out set in use, from 1. Those before it are training data. `rlhf heldout rotate`"
            " checks the next one."
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

    @model_validator(mode="after")
    def _require_folds(self) -> "Data":
        if self.heldout_fold > self.heldout_folds:
            raise ValueError(
                f"heldout_fold is {self.heldout_fold}, but heldout_folds is {self.heldout_folds};"
                " expected a fold that was set aside"
            )
        aside = self.heldout_folds * self.heldout_fraction
        if self.heldout_folds > 1 and aside >= 1:
            raise ValueError(
                f"heldout_folds {self.heldout_folds} times heldout_fraction"
                f" {self.heldout_fraction:g} leaves no training data; expected less than 1"
            )
        if self.heldout_folds > 1 and not self.is_split_by_hash:
            raise ValueError(
                "heldout_folds are cut by hash, but every held-out set is a file; remove"
                " heldout_folds, or the held-out files"
            )
        return self

    @model_validator(mode="after")
    def _require_labels(self) -> "Data":
        if not (self.comparisons or self.feedback):
            raise ValueError(
                "neither comparisons nor feedback is given, so that nothing says which replies are"
                " good; expected comparisons = ... (prompt, chosen, rejected), or feedback = ..."
                " (prompt, completion, label)"
            )
        for name in ("comparisons", "feedback"):
            if getattr(self, f"{name}_heldout") and not getattr(self, name):
                raise ValueError(
                    f"{name}_heldout is given without {name}; expected both, or {name} alone, which"
                    " is split by hash"
                )
        if self.new_comparisons and not self.comparisons:
            raise ValueError(
                "new_comparisons is given without comparisons, beside which they are new; expected"
                " both. Give the first file of pairs as comparisons"
            )
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of rows that the recipe has splits of."""
        given = [name for name in ("comparisons", "feedback") if getattr(self, name)]
        new = [NEW_COMPARISONS] if self.new_comparisons else []
        return ("demonstrations", *given, "prompts", *new)

    @property
    def sources(self) -> dict[str, Source]:
        """The sources by their names in inputs and reports; the new files are numbered from 1."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        one = {name: value for name, value in fields.items() if isinstance(value, Source)}
        new = enumerate(self.new_comparisons, start=1)
        return one | {f"{NEW_COMPARISONS}_{number}": source for number, source in new}

    def key_of(self, name: str) -> str:
        """Return the key of a source in the recipe, for messages."""
        if not name.startswith(NEW_COMPARISONS):
            return f"data.{name}"
        number = name.rsplit("_", 1)[1]
        many = len(self.new_comparisons) > 1
        return f"data.{NEW_COMPARISONS} (file {number})" if many else f"data.{NEW_COMPARISONS}"

    def with_sources(self, sources: Mapping[str, Source]) -> "Data":
        """Return the section with other sources, by their names as in `sources`."""
        known = self.sources | dict(sources)
        fields = {name: one for name, one in known.items() if name in type(self).model_fields}
        new = tuple(one for name, one in known.items() if name not in fields)
        return self.model_copy(update={**fields, NEW_COMPARISONS: new})

    @property
    def is_split_by_hash(self) -> bool:
        """True if a source has no held-out file of its own."""
        kinds = [name for name in self.kinds if name != NEW_COMPARISONS]
        names = [name for name in kinds if name != "prompts" or self.prompts]
        return any(getattr(self, f"{name}_heldout") is None for name in names)

    @property
    def evaluated_prompts(self) -> Source | None:
        """The file that prompts of the evaluation come from; None if all are split by hash."""
        judged = self.comparisons_heldout if self.comparisons else self.feedback_heldout
        return self.prompts_heldout or judged

    @property
    def checked_rules(self) -> Rules:
        """The rules as they are applied: overlong = 'error' makes the limits an error."""
        if self.overlong != "error":
            return self.rules
        return self.rules.model_copy(update={"length": "error"})
