"""Drawing responses over all ranks."""

from collections.abc import Sequence as Seq

from rlhf_core.batching.collective import gathered
from rlhf_core.ranks import rank_slice
from rlhf_core.sampling.base import Sample, Sampler


def draw(
    sampler: Sampler, prompts: list[list[int]], *, seeds: Seq[int], eos_id: int
) -> list[Sample]:
    """Return one response per prompt, on every rank; each sampler answers its share of them."""
    own = rank_slice(len(prompts), group=sampler.ranks_each)
    drawn: list[Sample] = []
    if prompts[own]:  # with fewer prompts than ranks some have no share
        drawn = sampler.generate(prompts[own], seeds=list(seeds[own]), eos_id=eos_id)
    parts = gathered([(s.tokens, s.logprobs, s.ended) for s in drawn])[:: sampler.ranks_each]
    return [Sample(*fields) for part in parts for fields in part]
