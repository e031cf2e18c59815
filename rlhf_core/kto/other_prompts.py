"""Mismatched replies: for each prompt a reply to another one, on which z0 is measured."""

from collections.abc import Hashable
from collections.abc import Sequence as Seq


def places_of_other_prompts(prompts: Seq[Hashable]) -> list[int]:
    """Return for each prompt the nearest earlier place with another one, cyclic.

    That is the place before it, unless replies to one prompt stand beside each other, as those of
    a comparison do. Where all prompts are the same one, it is the place before it.
    """
    found = [place - 1 for place in range(len(prompts))]
    if len(set(prompts)) > 1:
        for place in [*range(len(prompts))] * 2:  # twice: the first ones look back past the start
            if prompts[place] == prompts[place - 1]:
                found[place] = found[place - 1]
    return [place % len(prompts) for place in found]
