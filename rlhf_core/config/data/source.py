"""One source of rows: a file, a folder, a pattern or a data set of the hub."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from rlhf_core.config.fields import Config
from rlhf_core.named_functions import NAME


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
    reader: str | None = Field(
        None,
        pattern=NAME,
        exclude_if=_is_none,
        description=(
            "'module:function', or a name that an installed package offers (rlhf.readers). It takes"
            " the path and returns the rows, each a dict. None: `format` says how the file is read."
        ),
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

    @model_validator(mode="after")
    def _is_read_in_one_way(self) -> "Source":
        if self.reader and self.format != "auto":
            raise ValueError(
                f"reader {self.reader!r} reads the file, and so does format {self.format!r};"
                " expected one of the two. Leave format out"
            )
        return self


def _as_source(value: object) -> object:
    if isinstance(value, list | tuple):
        raise ValueError(
            "a list; expected one path. A pattern such as 'data/*.jsonl' reads several files as"
            " one; data.new_comparisons takes the files of later labels"
        )
    return {"path": value} if isinstance(value, str) else value


SourceField = Annotated[Source, BeforeValidator(_as_source)]
