"""The prompts of PPO: token ids and records, read as a step asks for them."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial
from typing import overload

from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence
from rlhf_core.data.render import render_prompt
from rlhf_core.data.rows.split_file import SplitFile
from rlhf_core.engine.encoded import EncodedSequences, encoded_once
from rlhf_core.rundir import RunDir


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, and the record that it was rendered from."""

    ids: list[int]
    record: dict


class PromptList(Seq[Prompt]):
    """Some prompts of a split, by their places in it."""

    def __init__(self, encoded: EncodedSequences[Sequence], records: SplitFile, places: Seq[int]):
        self._encoded, self._records, self._places = encoded, records, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Prompt: ...
    @overload
    def __getitem__(self, place: slice) -> list[Prompt]: ...
    def __getitem__(self, place: int | slice) -> Prompt | list[Prompt]:
        if isinstance(place, slice):
            return [self._prompt(one) for one in self._places[place]]
        return self._prompt(self._places[place])

    def _prompt(self, place: int) -> Prompt:
        return Prompt(self._encoded[place].prompt, self._records[place])


def encoded_prompts(
    tokenizer: PreTrainedTokenizerBase, records: SplitFile, run: RunDir
) -> EncodedSequences[Sequence]:
    """Return the records' prompts as token ids, with empty responses. Every rank takes part."""
    return encoded_once(run.tokens, records, partial(_rendered, tokenizer), Sequence)


def _rendered(tokenizer: PreTrainedTokenizerBase, records: Seq[dict]) -> list[Sequence]:
    return [Sequence(render_prompt(tokenizer, record["prompt"]), []) for record in records]
