"""transformers' own generation as a sampler, for machines without vLLM.

It has the same interface and the same statistics.
"""

import gc
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PretrainedConfig

from rlhf_core.batching.batch import device
from rlhf_core.config import Sampling
from rlhf_core.errors import BadInput
from rlhf_core.modeling.models import load_policy
from rlhf_core.modeling.requirements import context_length
from rlhf_core.sampling.base import Sample, Sampler
from rlhf_core.sampling.stops import stop_ids_of


class TransformersSampler(Sampler):
    """A transformers model in this process, with weights of its own, that answers prompts."""

    ranks_each = 1  # every rank has one

    def __init__(self, model: Path, sampling: Sampling, *, max_prompt_tokens: int, dtype: str):
        self._sampling = sampling
        self._stops = stop_ids_of(model)
        self._model = (
            load_policy(model)
            .model.to(device(), getattr(torch, dtype))
            .requires_grad_(False)
            .eval()
        )
        # the model's own configuration would change temperature and penalties unseen
        self._model.generation_config = GenerationConfig()
        self._rows = rows_at_once(
            self._model.config, sampling, max_prompt_tokens, self._model.dtype.itemsize
        )

    def generate(self, prompts: list[list[int]], *, seeds: list[int], eos_id: int) -> list[Sample]:
        """Return one response per prompt.

        Each is a function of weights, prompt and its own seed, not of its neighbours.
        """
        samples = []
        for start in range(0, len(prompts), self._rows):
            part = slice(start, start + self._rows)
            samples += self._answer(prompts[part], seeds[part], eos_id)
        return samples

    def _answer(self, prompts: list[list[int]], seeds: list[int], eos_id: int) -> list[Sample]:
        P, count = max(map(len, prompts)), self._sampling.max_new_tokens
        ids_BP = torch.full((len(prompts), P), eos_id)
        mask_BP = torch.zeros_like(ids_BP)
        for row, prompt in enumerate(prompts):
            ids_BP[row, P - len(prompt) :] = torch.tensor(prompt)
            mask_BP[row, P - len(prompt) :] = 1
        stops = self._stops | {eos_id}
        draw = SeededDraw(seeds, count, temperature=self._sampling.temperature)
        config = GenerationConfig(
            max_new_tokens=count,
            do_sample=False,  # `draw` leaves one token, and greedy search takes it
            use_cache=True,
            eos_token_id=sorted(stops),
            pad_token_id=eos_id,
        )
        ids_BL = self._model.generate(
            input_ids=ids_BP.to(device()),
            attention_mask=mask_BP.to(device()),
            generation_config=config,
            logits_processor=LogitsProcessorList([draw]),
        )
        logprobs_BR = torch.stack(draw.logprobs, dim=1).tolist()
        return [
            _sample(ids, logprobs, stops)
            for ids, logprobs in zip(ids_BL[:, P:].tolist(), logprobs_BR, strict=True)
        ]

    def sleep(self) -> None:
        """Do nothing: the model stays where it is."""

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> float:
        """Replace the weights in place; return the seconds.

        weights: named tensors of the model's checkpoint format. Raises KeyError for a name that the
        model does not have, ValueError when a weight is left as it was.
        """
        started = time.monotonic()
        own, written = self._model.state_dict(), set()
        for name, tensor in weights:
            own[name].copy_(tensor.detach())
            written.add(own[name].data_ptr())  # tied weights have two names and one place
        if left := [name for name, tensor in own.items() if tensor.data_ptr() not in written]:
            raise ValueError(f"no new weights came for {left[:3]}; expected every one")
        return time.monotonic() - started

    def sync_adapter(self, save: Callable[[Path], None]) -> float:
        """Refuse: a recipe cannot ask for it (`Sampling`)."""
        raise NotImplementedError("transformers' generation gets merged weights, by `sync`")

    @property
    def model(self) -> nn.Module:
        """The backbone of the model that samples."""
        return self._model.base_model

    def close(self) -> None:
        """Give the memory back."""
        del self._model
        gc.collect()


class SeededDraw(LogitsProcessor):
    """A processor that leaves one token per row, and keeps its log-probability.

    The token is drawn from softmax(logits / temperature) by the row's own random numbers. Inverse
    transform sampling: the first token at which the cumulative probability exceeds a uniform number
    of the row. Temperature 0 is greedy search: the most likely token.
    """

    def __init__(self, seeds: list[int], tokens: int, *, temperature: float):
        self._uniform_BR = torch.stack([_uniform(seed, tokens) for seed in seeds]).to(device())
        self._temperature = temperature
        self.logprobs: list[Tensor] = []  # (B,) per step, nats

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (B, V) of which only the drawn token's is finite."""
        logprobs_BV = (scores.double() / (self._temperature or 1.0)).log_softmax(-1)
        if self._temperature:
            cumulative_BV = logprobs_BV.exp().cumsum(-1)
            below_B1 = self._uniform_BR[:, len(self.logprobs), None] * cumulative_BV[:, -1:]
            drawn_B1 = torch.searchsorted(cumulative_BV, below_B1, right=True)
        else:
            drawn_B1 = logprobs_BV.argmax(-1, keepdim=True)
        self.logprobs.append(logprobs_BV.gather(-1, drawn_B1).squeeze(-1))
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn_B1, 0.0)


def _uniform(seed: int, count: int) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rows_at_once(
    config: PretrainedConfig, sampling: Sampling, prompt_tokens: int, itemsize: int
) -> int:
    """Return how many responses' keys and values fit into kv_cache_mib.

    itemsize: bytes of a number. Raises BadInput when none fits, or when prompt and response exceed
    the model's context.
    """
    length = prompt_tokens + sampling.max_new_tokens
    context = context_length(config)
    if context and length > context:
        raise BadInput(
            f"the longest prompt has {prompt_tokens} tokens and sampling.max_new_tokens is"
            f" {sampling.max_new_tokens}: {length} together, the model's context is {context}."
            " Lower sampling.max_new_tokens or data.max_prompt_tokens."
        )
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 2 * config.num_hidden_layers * heads * width * itemsize * length
    rows = (sampling.kv_cache_mib << 20) // row
    if not rows:
        raise BadInput(
            f"sampling.kv_cache_mib {sampling.kv_cache_mib} holds no response of {length} tokens;"
            f" expected at least {-(-row // 2**20)}"
        )
    return rows


def _sample(ids: list[int], logprobs: list[float], stops: frozenset[int]) -> Sample:
    end = next((place for place, id in enumerate(ids, start=1) if id in stops), None)
    return Sample(ids[:end], logprobs[:end], end is not None)
