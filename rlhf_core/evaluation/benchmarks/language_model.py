"""A model as lm-eval asks it: log-likelihoods by its forward pass, replies by the sampler."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from torch import Tensor

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.batching.collective import summed
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import Sampling
from rlhf_core.data.chat_template import prompt_text
from rlhf_core.data.transcripts import Messages
from rlhf_core.engine.base import Forward
from rlhf_core.errors import BadInput
from rlhf_core.evaluation.replies import Setup
from rlhf_core.evaluation.scoring import load_frozen_policy
from rlhf_core.modeling.requirements import context_of
from rlhf_core.modeling.token_scores import TokenQuery
from rlhf_core.sampling.draw import draw
from rlhf_core.sampling.factory import open_sampler
from rlhf_core.seeds import reply_seeds

MAX_NEW_TOKENS = 256  # lm-eval's own, of a task that states none


class BenchmarkedModel(TemplateLM):
    """One of the evaluation's models, as lm-eval's interface wants it.

    Every rank makes the same calls: lm-eval sees one process, and the passes share the work.
    """

    def __init__(self, setup: Setup, name: str, path: Path):
        super().__init__()
        self.tokenizer = setup.tokenizer_of(name)
        self._setup, self._path = setup, path
        self._chat, self._context = setup.config.benchmarks.chat_template, context_of(path)

    @cached_property
    def _forward(self) -> Forward:
        return load_frozen_policy(self._setup, self._path)

    @property
    def tokenizer_name(self) -> str:
        """The name by which lm-eval would cache requests, which it does not do here."""
        return ""

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that a text without a context follows."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def apply_chat_template(
        self, chat_history: Messages, add_generation_prompt: bool = True
    ) -> str:
        """Return the text of the chat template over messages.

        Without the generation prompt, the last message is the beginning of the model's answer.
        Raises BadInput if the template refuses, e.g. a system message.
        """
        if add_generation_prompt:
            return prompt_text(self.tokenizer, chat_history)
        *before, begun = chat_history
        return prompt_text(self.tokenizer, before) + begun["content"]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: object
    ) -> list[int]:
        """Return the token ids of a text; a chat template has written the special tokens."""
        special = not self._chat if add_special_tokens is None else add_special_tokens
        return self.tokenizer.encode(string, add_special_tokens=special)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, nats, and True if greedy search finds it.

        A context that is too long loses its beginning.
        """
        sequences = [self._sequence(text, before, after) for text, before, after in requests]
        found_N2 = self._logprobs_and_greedy(sequences)
        return [(float(logprob), bool(greedy)) for logprob, greedy in found_N2.tolist()]

    def _sequence(self, text: tuple[str, str], before: list[int], after: list[int]) -> Sequence:
        room = None if self._context is None else self._context - len(after)
        if not after or (room is not None and room < 1):
            raise BadInput(
                f"the answer {text[1]!r:.80} of a benchmark has {len(after)} tokens; expected at"
                f" least 1, and with a prompt at most the model's context ({self._context})"
            )
        return Sequence(before if room is None else before[-room:], after)

    def _logprobs_and_greedy(self, sequences: list[Sequence]) -> Tensor:
        """Return the sum of log-probabilities of each response, and 1 if it is greedy's, (N, 2)."""
        found_N2 = torch.zeros(len(sequences), 2, dtype=torch.float64)
        config, pad_id = self._setup.config, self.tokenizer.pad_token_id
        for rows, counts in own_microbatches(
            [s.size for s in sequences], config.micro_batch_tokens, packing=config.packing
        ):
            batch = collate([sequences[i] for i in rows], pad_id)
            found = self._forward(batch, query=TokenQuery(greedy=True))
            pad_BR = ~batch.response_mask_BR
            logprobs_BR = found.logprobs_BR.masked_fill(pad_BR, 0.0)
            greedy_B = (found.greedy_BR | pad_BR).all(-1)
            if counts:
                both = (logprobs_BR.sum(-1).double(), greedy_B.double())
                found_N2[rows] = torch.stack(both, dim=-1).cpu()
        return summed(found_N2)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Raise BadInput: the perplexity of a text is no number per item that gates can pair."""
        raise BadInput(
            f"{requests[0].task_name} measures the perplexity of whole texts, which has no value"
            " per item; expected a task of multiple choice or of generation"
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the model's reply to each prompt, up to the first of the task's stop strings."""
        settings = dict(requests[0].args[1])
        sampling = sampling_of(self._setup.config.sampling, settings, self._context)
        room = None if self._context is None else self._context - sampling.max_new_tokens
        prompts = [self._prompt(request.args[0], room) for request in requests]
        texts = self._replies(prompts, sampling)
        return [
            cut(text, request.args[1].get("until") or [])
            for text, request in zip(texts, requests, strict=True)
        ]

    def _prompt(self, text: str, room: int | None) -> list[int]:
        ids = self.tok_encode(text) or [self.prefix_token_id]
        return ids if room is None else ids[-room:]

    def _replies(self, prompts: list[list[int]], sampling: Sampling) -> list[str]:
        setup, eos_id = self._setup, self.eot_token_id
        seeds = reply_seeds(setup.seed, 0, len(prompts))
        longest = max(map(len, prompts))
        sampler = open_sampler(self._path, sampling, max_prompt_tokens=longest, dtype=setup.dtype)
        try:
            samples = draw(sampler, prompts, seeds=seeds, eos_id=eos_id)
        finally:
            sampler.close()
        return [self.tokenizer.decode(s.tokens, skip_special_tokens=True) for s in samples]


def sampling_of(base: Sampling, settings: dict[str, Any], context: int | None) -> Sampling:
    """Return how a task's replies are sampled: the evaluation's engine, the task's own settings.

    A task that does not ask for sampling has its replies by greedy search, temperature 0. A reply
    has at most half of the model's context.
    """
    wanted = next(
        (settings[name] for name in ("max_gen_toks", "max_new_tokens") if name in settings),
        MAX_NEW_TOKENS,
    )
    samples = bool(settings.get("do_sample", False))
    return base.model_copy(
        update={
            "temperature": float(settings.get("temperature") or 1.0) if samples else 0.0,
            "max_new_tokens": min(int(wanted), context // 2 if context else int(wanted)),
        }
    )


def cut(text: str, until: Iterable[str] | str) -> str:
    """Return a text up to the first stop string in it."""
    stops = [until] if isinstance(until, str) else until
    for stop in stops:
        text = text.partition(stop)[0] if stop else text
    return text
