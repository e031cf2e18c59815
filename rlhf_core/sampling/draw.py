"""Drawing responses over all ranks."""

from collections.abc import Sequence as Seq

from rlhf_core.batching.collective import gathered
from rlhf_core.ranks import rank_slice
from rlhf_core.sampling.base import Sample, Sampler


def draw(
    sampler: Sampler, prompts: list[list[int]], *, seeds: Seq[int], eos_id: int
) -> list[Sample]:
    """Return one response per prompt, on every rank; each sampler answers its share of them."""
    return of_all_ranks(sampler, draw_own(sampler, prompts, seeds=seeds, eos_id=eos_id))


def draw_own(
    sampler: Sampler, prompts: list[list[int]], *, seeds: Seq[int], eos_id: int
) -> list[Sample]:
    """Return the responses of this rank's share of the prompts; no other rank takes part."""
    own = rank_slice(len(prompts), group=sampler.ranks_each)
    if not prompts[own]:  # with fewer prompts than ranks some have no share
        return []
    return sampler.generate(prompts[own], seeds=list(seeds[own]), eos_id=eos_id)


def of_all_ranks(sampler: Sampler, drawn: list[Sample]) -> list[Sample]:
    """Return the responses that the ranks drew, in the order of the prompts, on every rank."""
    parts = gathered([(s.tokens, s.logprobs, s.ended) for s in drawn])[:: sampler.ranks_each]
    return [Sample(*fields) for part in parts for fields in part]
