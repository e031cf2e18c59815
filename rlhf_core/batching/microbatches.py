"""Microbatches: which sequences pass through a model together, on which rank."""

from bisect import bisect_left
from collections.abc import Hashable
from collections.abc import Sequence as Seq
from itertools import accumulate, pairwise

from rlhf_core.ranks import rank, ranks

Size = tuple[int, int]  # prompt and response tokens of one sequence


def microbatches(
    sizes: Seq[Size],
    token_budget: int,
    *,
    group: int = 1,
    packing: bool = False,
    prompts: Seq[Hashable] | None = None,
) -> list[list[int]]:
    """Return indices in microbatches of similar length.

    A microbatch has at most `token_budget` tokens, padding included; with `packing` there is none.
    A group over the budget is a microbatch of its own.
    sizes: (prompt, response) tokens of each sequence.
    group: the number of neighbours that stay together (2: a chosen and its rejected answer).
    prompts: the prompt of each sequence; set when neighbours share one copy. Sequences of one
    prompt then come one after the other, of any lengths. Each counts with its whole prompt, so that
    a microbatch takes no more memory than without. Needs packing, and group = 1.
    """
    if prompts is not None:
        return _in_order(_by_prompt(prompts), sizes, token_budget)
    tokens = _real_tokens if packing else _padded_tokens
    groups = [list(range(i, i + group)) for i in range(0, len(sizes), group)]
    groups.sort(key=lambda g: (max(sum(sizes[i]) for i in g), g[0]))
    result: list[list[int]] = []
    for indices in groups:
        merged = [*result[-1], *indices] if result else indices
        if result and tokens([sizes[i] for i in merged]) <= token_budget:
            result[-1] = merged
        else:
            result.append(list(indices))
    return result


def own_microbatches(
    sizes: Seq[Size],
    token_budget: int,
    *,
    group: int = 1,
    packing: bool = False,
    prompts: Seq[Hashable] | None = None,
) -> list[tuple[list[int], bool]]:
    """Return this rank's microbatches of a step, each with a flag that says if it counts.

    Every rank knows all rows of the step. Arguments as of `microbatches`. All ranks get the same
    number, since a pass through a sharded model waits for every rank: a rank with fewer repeats the
    step's first group with the flag False, and must add nothing for it.
    """
    if prompts is not None:
        plans = [
            _in_order(share, sizes, token_budget)
            for share in _shares_by_prompt(sizes, prompts, ranks())
        ]
    else:
        plans = [
            _microbatches_of(share, sizes, token_budget, group=group, packing=packing)
            for share in shares(sizes, ranks(), group=group)
        ]
    own = plans[rank()]
    idle = max(map(len, plans)) - len(own)
    return [(rows, True) for rows in own] + [(list(range(group)), False)] * idle


def shares(sizes: Seq[Size], count: int, *, group: int = 1) -> list[list[int]]:
    """Return the indices of each of `count` ranks, ascending, with about equal numbers of tokens.

    Groups stay together. They are dealt out from the longest on, back and forth: 0 1 2 2 1 0 0 ...
    """
    starts = sorted(
        range(0, len(sizes), group),
        key=lambda i: (-max(sum(sizes[k]) for k in range(i, i + group)), i),
    )
    dealt: list[list[int]] = [[] for _ in range(count)]
    for place, start in enumerate(starts):
        turn, position = divmod(place, count)
        dealt[position if turn % 2 == 0 else count - 1 - position].append(start)
    return [[k for start in sorted(part) for k in range(start, start + group)] for part in dealt]


def _by_prompt(prompts: Seq[Hashable]) -> list[int]:
    """Return all indices, those of one prompt together, otherwise in their order."""
    first: dict[Hashable, int] = {}
    return sorted(range(len(prompts)), key=lambda i: (first.setdefault(prompts[i], i), i))


def _shares_by_prompt(sizes: Seq[Size], prompts: Seq[Hashable], count: int) -> list[list[int]]:
    """Return the indices of each of `count` ranks, with about equal numbers of tokens.

    A rank's share begins where the one before ends, so that few prompts are on two ranks.
    """
    rows = _by_prompt(prompts)
    ends = list(accumulate(sum(sizes[i]) for i in rows))
    tokens = ends[-1] if ends else 0
    cuts = [bisect_left(ends, tokens * share / count) for share in range(count)] + [len(rows)]
    return [rows[begin:end] for begin, end in pairwise(cuts)]


def _in_order(rows: list[int], sizes: Seq[Size], token_budget: int) -> list[list[int]]:
    """Return the rows in microbatches of at most `token_budget` tokens, in their order."""
    result: list[list[int]] = []
    for row in rows:
        if result and _real_tokens([sizes[i] for i in [*result[-1], row]]) <= token_budget:
            result[-1].append(row)
        else:
            result.append([row])
    return result


def _microbatches_of(
    rows: list[int], sizes: Seq[Size], token_budget: int, *, group: int, packing: bool
) -> list[list[int]]:
    own = [sizes[row] for row in rows]
    return [
        [rows[i] for i in part]
        for part in microbatches(own, token_budget, group=group, packing=packing)
    ]


def _padded_tokens(sizes: Seq[Size]) -> int:
    return len(sizes) * (max(p for p, _ in sizes) + max(r for _, r in sizes))


def _real_tokens(sizes: Seq[Size]) -> int:
    return sum(map(sum, sizes))
