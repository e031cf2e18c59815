"""Engines and a sampler of torch alone, for the PPO loop in one process.

They are slow, and give the same to the last bit each time.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_core.batching.batch import Batch, Sequence, collate
from rlhf_core.config import Sampling
from rlhf_core.engine import replicated_checkpoint
from rlhf_core.engine.base import Engine, Forward, WrappedModel
from rlhf_core.engine.state_layout import Layout
from rlhf_core.modeling.models import PolicyModel
from rlhf_core.modeling.token_scores import TokenQuery, TokenScores, scores_of
from rlhf_core.ppo.rewards import Scores
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.sampling.base import Sample, Sampler


class PlainEngine(Engine):
    """A module and its AdamW."""

    def __init__(self, module: WrappedModel):
        self.module, self.steps, self.config = module.requires_grad_(True), 0, {}
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=0.0, weight_decay=0.0)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.module(*inputs, **options)

    @torch.no_grad()
    def infer(self, *inputs: Any, **options: Any) -> Any:
        return self.module(*inputs, **options)

    def backward(self, loss: Tensor, *, counts: bool = True) -> None:
        (loss * counts).backward()

    def step(self, lr: float, *, head_lr: float | None = None) -> float:
        self.optimizer.param_groups[0]["lr"] = lr
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        return float(norm)

    def release(self) -> None: ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.module.model.state_dict().items()

    def whole_weights(self) -> None:
        return None  # the module holds them

    def learning_weights(self) -> dict[str, Tensor]:
        return dict(self.module.model.named_parameters())

    def state(self) -> dict[str, Tensor]:
        tensors = {f"weights/{name}": value for name, value in self.module.state_dict().items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in entry.items()}
        return tensors

    def layout(self) -> Layout:
        return replicated_checkpoint.layout(self.module, self.optimizer)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        split = {name: name.split("/") for name in tensors}
        self.module.load_state_dict(
            {"/".join(parts[1:]): tensors[n] for n, parts in split.items() if parts[0] == "weights"}
        )
        state: dict[int, dict[str, Tensor]] = {}
        for name, parts in split.items():
            if parts[0] == "optimizer":
                state.setdefault(int(parts[1]), {})[parts[2]] = tensors[name]
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


class FixedEngine(PlainEngine):
    """A forward pass that answers, and learns nothing."""

    def __init__(self, forward: Forward):
        self._forward = forward

    def infer(self, *inputs: Any, **options: Any) -> Any:
        return self._forward(*inputs, **options)


def answering(logits_of: Callable[[Batch], Tensor]) -> Forward:
    """Return the forward pass of a language model that has these logits, whatever its weights."""

    def forward(batch: Batch, *, query: TokenQuery) -> TokenScores:
        return scores_of(logits_of(batch), batch.response_ids_BR, query)

    return forward


def no_functions(rollout: Rollout) -> list[Scores]:
    """Reward functions of a recipe that has none."""
    return []


class PlainSampler(Sampler):
    """Draws token by token from a copy of the policy, each prompt by its own seed."""

    ranks_each = 1

    def __init__(self, policy: PolicyModel, sampling: Sampling):
        self._policy, self._sampling = policy, sampling

    @property
    def model(self) -> PolicyModel:
        return self._policy

    @torch.no_grad()
    def generate(self, prompts: list[list[int]], *, seeds: list[int], eos_id: int) -> list[Sample]:
        return [
            self._one(prompt, torch.Generator().manual_seed(seed), eos_id)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def _one(self, prompt: list[int], generator: torch.Generator, eos_id: int) -> Sample:
        tokens: list[int] = []
        logprobs: list[float] = []
        while len(tokens) < self._sampling.max_new_tokens and eos_id not in tokens:
            # the last column predicts the next token
            batch = collate([Sequence(prompt, [*tokens, eos_id])], eos_id)
            logprobs_V = (self.model(batch)[0, -1] / self._sampling.temperature).log_softmax(-1)
            tokens.append(int(torch.multinomial(logprobs_V.exp(), 1, generator=generator)))
            logprobs.append(float(logprobs_V[tokens[-1]]))
        return Sample(tokens, logprobs, tokens[-1] == eos_id)

    def sleep(self) -> None:
        pass

    def close(self) -> None:
        pass

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> float:
        started = time.monotonic()
        self.model.model.load_state_dict(
            {name: tensor.detach().clone() for name, tensor in weights}
        )
        return time.monotonic() - started
