"""The prompts of PPO: token ids and records, read as a step asks for them."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence
from rlhf_core.data.render import render_prompt
from rlhf_core.data.rows.lazy import LazySequence
from rlhf_core.data.rows.split_file import SplitFile
from rlhf_core.engine.encoded import EncodedSequences, encoded_once
from rlhf_core.rundir import RunDir


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, and the record that it was rendered from."""

    ids: list[int]
    record: dict


class PromptList(LazySequence[Prompt]):
    """Some prompts of a split, by their indices in it."""

    def __init__(self, encoded: EncodedSequences[Sequence], records: SplitFile, indices: Seq[int]):
        self._encoded, self._records, self._indices = encoded, records, indices

    def __len__(self) -> int:
        return len(self._indices)

    def item(self, index: int) -> Prompt:
        """Return a prompt."""
        row = self._indices[index]
        return Prompt(self._encoded[row].prompt, self._records[row])


def encoded_prompts(
    tokenizer: PreTrainedTokenizerBase, records: SplitFile, run: RunDir
) -> EncodedSequences[Sequence]:
    """Return the records' prompts as token ids, with empty responses. Every rank takes part."""
    return encoded_once(run.tokens, records, partial(_rendered, tokenizer), Sequence)


def _rendered(tokenizer: PreTrainedTokenizerBase, records: Seq[dict]) -> list[Sequence]:
    return [Sequence(render_prompt(tokenizer, record["prompt"]), []) for record in records]
