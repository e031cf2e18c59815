"""Groups of prompts that stay on one side of a split by hash: by prompt, root or cluster."""

from collections import Counter
from collections.abc import Sequence

from rlhf_core.config import Data
from rlhf_core.data.splits import first_user_turn
from rlhf_core.data.splitting.near_duplicates import linked_pairs
from rlhf_core.data.table import TableEntry
from rlhf_core.data.tool_use import Message
from rlhf_core.errors import BadInput

FEW = 20  # prompts: below it a group may have most of them, and the rules about counts speak


def group_keys(entries: Sequence[TableEntry], data: Data) -> dict[str, str]:
    """Return the key of each prompt's group, by the prompt's key (see data.split_by).

    A group's key is the smallest key of its roots. One prompt alone therefore has the same key with
    every data.split_by, and another group's rows move no row of it. Raises BadInput when one group
    has more than half of the prompts.
    """
    found = groups_of_any_size(entries, data)
    if data.split_by != "prompt":
        _require_several(found, data)
    return found


def groups_of_any_size(entries: Sequence[TableEntry], data: Data) -> dict[str, str]:
    """Return what `group_keys` returns, also where one group has most of the prompts."""
    if data.split_by == "prompt":
        return {key: key for key in (entry.prompt_key for entry in entries)}
    groups, prompts = _Groups(), {}
    for entry in entries:
        key, root = entry.prompt_key, entry.root_key
        prompts[key] = entry
        if root != key:  # a prompt that is its own root, and no other's, is a group alone
            groups.join(key, root)
    if data.split_by == "cluster":
        _join_near_duplicates(groups, prompts, data.near_duplicate_similarity)
    names: dict[str, str] = {}
    for root in sorted({root for entry in entries if (root := entry.root_key) in groups}):
        names.setdefault(groups.top(root), root)
    return {key: names[groups.top(key)] if key in groups else key for key in prompts}


def texts_of(messages: list[Message]) -> list[str]:
    """Return the texts by which near duplicates are found: the root, and the whole if it is longer.

    System messages are left out: what a whole data set shares makes no two prompts alike.
    """
    root = first_user_turn(messages)[0]["content"]
    whole = "\n".join(m["content"] for m in messages if m["role"] != "system")
    return [root, whole] if whole and whole != root else [root]


def _join_near_duplicates(
    groups: "_Groups", prompts: dict[str, TableEntry], similarity: float
) -> None:
    owners: dict[str, str] = {}
    for key, entry in prompts.items():
        for text in texts_of(entry.canonical["prompt"]):
            groups.join(key, owners.setdefault(text, key))
    texts = list(owners)
    for first, second in linked_pairs(texts, similarity):
        groups.join(owners[texts[first]], owners[texts[second]])


def _require_several(groups: dict[str, str], data: Data) -> None:
    """Raise BadInput when one group has more than half of the prompts."""
    most = max(Counter(groups.values()).values(), default=0)
    if len(groups) < FEW or most <= len(groups) / 2:
        return
    if data.split_by == "root":
        shared, remedy = "begin with the same user turn", "Set data.split_by = 'prompt'"
    else:
        shared = "are near duplicates of each other, directly or through others,"
        remedy = (
            f"Raise data.near_duplicate_similarity ({data.near_duplicate_similarity:g}), set"
            " data.split_by = 'root'"
        )
    raise BadInput(
        f"data.split_by is {data.split_by!r}, but {most} of {len(groups)} prompts {shared} and"
        f" would all be on one side of the split; expected at most half. {remedy}, or give"
        " held-out files."
    )


class _Groups:
    """Disjoint sets of keys."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._above

    def top(self, key: str) -> str:
        """Return the key that stands for a key's set."""
        above = self._above
        while (parent := above.setdefault(key, key)) != key:
            above[key] = above[parent]
            key = parent
        return key

    def join(self, first: str, second: str) -> None:
        """Join the sets of two keys."""
        self._above[self.top(first)] = self.top(second)
