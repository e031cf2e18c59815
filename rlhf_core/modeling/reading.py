"""Replies as another model reads them: rendered by its own tokenizer and chat template.

A reward model is gated on conversations in its own rendering. It reads that rendering in PPO and in
the evaluation too, whatever token ids the policy writes.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import PPO
from rlhf_core.data.render import render_prompt, render_response, reply_text
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.data.transcripts import Messages
from rlhf_core.errors import BadInput
from rlhf_core.modeling.requirements import context_of
from rlhf_core.modeling.vocabulary import TURNS


@dataclass(frozen=True)
class Reading:
    """A reader's own rendering of replies that a writer with other token ids gives.

    folder: that of the reader's model. context: the most tokens that the reader takes.
    """

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    writer: PreTrainedTokenizerBase
    context: int | None

    @property
    def pad_id(self) -> int:
        """The reader's padding token."""
        return self.tokenizer.pad_token_id

    def sequences(
        self, prompts: Seq[Messages], responses: Seq[list[int]], ended: Seq[bool]
    ) -> list[Sequence]:
        """Return the conversations as the reader's token ids.

        responses: the writer's token ids, whose text is rendered. A reply that did not end gets no
        end of turn. Raises BadInput for a conversation that is longer than the reader's context.
        """
        rows = zip(prompts, responses, ended, strict=True)
        return [self._sequence(prompt, response, end) for prompt, response, end in rows]

    def _sequence(self, prompt: Messages, response: list[int], ended: bool) -> Sequence:
        text = reply_text(self.writer, response)
        opening, answer = (
            render_prompt(self.tokenizer, prompt),
            render_response(self.tokenizer, text),
        )
        if not ended:
            answer = answer[:-1]
        if not answer:  # cut before its first letter: it is scored where the reply would begin
            opening, answer = opening[:-1], opening[-1:]
        found = Sequence(opening, answer)
        if self.context and len(found) > self.context:
            raise BadInput(
                f"a conversation has {len(found)} tokens as the reward model {self.folder} reads"
                f" it, its context is {self.context}; lower max_new_tokens in ppo.sampling and"
                " evaluate.sampling, or data.max_prompt_tokens"
            )
        return found


def own_reading(folder: Path, writer: PreTrainedTokenizerBase) -> Reading | None:
    """Return how the model in `folder` reads a writer's replies; None if it reads the same ids."""
    tokenizer = load_tokenizer(folder)
    if reads_the_same(tokenizer, writer):
        return None
    return Reading(folder, tokenizer, writer, context_of(folder))


def reward_reading(config: PPO, policy: Path, reward: Path) -> Reading | None:
    """Return how PPO's reward model reads the policy's replies; None if it reads the same ids.

    Raises BadInput where it reads other ids but must share the policy's: on a shared trunk, and for
    rewards at single tokens.
    """
    reading = own_reading(reward, load_tokenizer(policy))
    if reading is None:
        return None
    shared = {
        "reward_trunk": (config.reward_trunk, "own"),
        "reward.model_at": (config.reward.model_at, "last"),
    }
    for key, (value, needed) in shared.items():
        if value != needed:
            raise BadInput(
                f"ppo.{key} is {value!r}, but the reward model {reward} has another tokenizer or"
                f" chat template than the policy {policy}; expected the same token ids for both."
                f" Set ppo.{key} = {needed!r}, or give both the same tokenizer and template."
            )
    return reading


def reads_the_same(reader: PreTrainedTokenizerBase, writer: PreTrainedTokenizerBase) -> bool:
    """Return True if both render every conversation as the same token ids."""
    return (
        same_vocabulary(reader, writer)
        and reader.chat_template == writer.chat_template
        and reader.eos_token_id == writer.eos_token_id
        and render_prompt(reader, TURNS) == render_prompt(writer, TURNS)
    )


def same_vocabulary(reader: PreTrainedTokenizerBase, writer: PreTrainedTokenizerBase) -> bool:
    """Return True if the reader has the writer's tokens, and none more but its padding token."""
    ours, theirs = reader.get_vocab(), writer.get_vocab()
    return ours == theirs or (
        theirs.items() <= ours.items() and ours.keys() - theirs.keys() <= {reader.pad_token}
    )
