"""The places of weights and AdamW state in a checkpoint, and their division among other ranks.

ZeRO divides them in three ways. Each is described by a `Layout` beside the tensors, so that another
number of ranks, or another ZeRO stage, finds every weight again.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from rlhf_core.rundir import Frozen

WEIGHTS = "weights"
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state that has the shape of a weight
STEP = "step"


class WeightPlace(NamedTuple):
    """The place of one learning weight in its group's flat tensor, in numbers from 0."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def numel(self) -> int:
        """The count of numbers in the weight."""
        return math.prod(self.shape)

    def part(self, ranks: int) -> int:
        """Return how many numbers of the weight each rank holds under ZeRO 3."""
        return -(-self.numel // ranks)


class Group(Frozen):
    """Weights whose state is one flat tensor per rank. size: numbers in it on each rank."""

    places: tuple[WeightPlace, ...]
    size: int = 0


class Layout(Frozen):
    """The division of an engine's weights and AdamW state among the ranks.

    whole (ZeRO 0): all on every rank, tensor by tensor.
    flat (ZeRO 1 and 2): whole weights; a group's state is one flat vector, cut into equal parts.
    sliced (ZeRO 3): every weight and its state are cut into equal parts, one per rank.
    """

    kind: Literal["whole", "flat", "sliced"]
    ranks: int
    groups: tuple[Group, ...]

    @property
    def places(self) -> list[WeightPlace]:
        """The places of all groups, in the optimizer's order."""
        return [place for group in self.groups for place in group.places]


class TensorFile(Protocol):
    """An open safetensors file, from which parts of tensors can be read."""

    def keys(self) -> Sequence[str]:
        """Return the names of the tensors."""

    def get_tensor(self, name: str) -> Tensor:
        """Return a whole tensor."""

    def get_slice(self, name: str) -> Tensor:
        """Return what can be cut before it is read."""


@dataclass(frozen=True)
class SavedState:
    """One engine's state as several ranks wrote it, read weight by weight.

    files: one per rank, in rank order. prefix: of the engine's names in them.
    """

    files: Sequence[TensorFile]
    layout: Layout
    prefix: str = ""

    @cached_property
    def _found(self) -> dict[str, tuple[str, WeightPlace]]:
        """Return each weight's place, and the name of its group's state."""
        found: dict[str, tuple[str, WeightPlace]] = {}
        for number, group in enumerate(self.layout.groups):
            for place in group.places:
                names = {"whole": f"optimizer/{len(found)}", "flat": f"shard/optimizer/{number}"}
                found[place.name] = (names.get(self.layout.kind, f"shard/{number}"), place)
        return found

    def weight(self, name: str) -> Tensor:
        """Return a whole weight, flat."""
        if self.layout.kind == "sliced":
            return self._joined(name, WEIGHTS)
        return self.files[0].get_tensor(f"{self.prefix}{WEIGHTS}/{name}").flatten()

    def moment(self, name: str, key: str) -> Tensor | None:
        """Return a part of AdamW's state of a whole weight, flat; None where it has none yet."""
        entry = f"{self._found[name][0]}/{key}"
        if self.prefix + entry not in self._names:
            return None
        if self.layout.kind == "whole":
            return self.files[0].get_tensor(self.prefix + entry).flatten()
        return self._joined(name, key)

    def steps(self, name: str) -> Tensor | None:
        """Return how many steps AdamW has taken with a weight; None for none.

        A tensor of its own for each weight: AdamW counts in place.
        """
        entry = f"{self.prefix}{self._found[name][0]}/{STEP}"
        return self.files[0].get_tensor(entry).clone() if entry in self._names else None

    @cached_property
    def _names(self) -> set[str]:
        return set(self.files[0].keys())

    def _joined(self, name: str, key: str) -> Tensor:
        """Return a weight's numbers from the flat tensors of all ranks."""
        entry, place = self._found[name]
        parts = [
            self.files[rank].get_slice(f"{self.prefix}{entry}/{key}")[begin:end]
            for rank, begin, end in self._cuts(name, place)
        ]
        return torch.cat(parts)[: place.numel]

    def _cuts(self, name: str, place: WeightPlace) -> Iterator[tuple[int, int, int]]:
        """Yield each rank that holds a part of the weight, with the part's begin and end there."""
        if self.layout.kind == "sliced":
            part = place.part(self.layout.ranks)
            yield from (
                (rank, place.offset, place.offset + part) for rank in range(len(self.files))
            )
            return
        size = next(group.size for group in self.layout.groups if place in group.places)
        for rank in range(len(self.files)):
            begin, end = place.offset - rank * size, place.offset + place.numel - rank * size
            if begin < size and end > 0:
                yield rank, max(begin, 0), min(end, size)


def own_part(saved: SavedState, layout: Layout, rank: int) -> dict[str, Tensor]:
    """Return the named tensors that the engine's `state()` gives on a rank of `layout`.

    Raises RuntimeError for the state of other weights.
    """
    theirs = {place.name: place.shape for place in saved.layout.places}
    ours = {place.name: place.shape for place in layout.places}
    if theirs != ours:
        unknown = sorted(theirs.keys() ^ ours.keys()) or "the same names in other shapes"
        raise RuntimeError(f"a checkpoint of other weights: {unknown}")
    if layout.kind == "sliced":
        return _sliced(saved, layout, rank)
    weights = {f"{WEIGHTS}/{p.name}": saved.weight(p.name).view(p.shape) for p in layout.places}
    return weights | (
        _whole(saved, layout) if layout.kind == "whole" else _flat(saved, layout, rank)
    )


def _whole(saved: SavedState, layout: Layout) -> dict[str, Tensor]:
    tensors = {}
    for index, place in enumerate(layout.places):
        steps = saved.steps(place.name)
        if steps is not None:
            tensors[f"optimizer/{index}/{STEP}"] = steps
        for key in MOMENTS:
            moment = saved.moment(place.name, key)
            if moment is not None:
                tensors[f"optimizer/{index}/{key}"] = moment.view(place.shape)
    return tensors


def _flat(saved: SavedState, layout: Layout, rank: int) -> dict[str, Tensor]:
    tensors = {}
    for number, group in enumerate(layout.groups):
        first = rank * group.size
        for key in MOMENTS:
            flat = torch.zeros(group.size)
            for place in group.places:
                begin, end = (
                    max(place.offset, first),
                    min(place.offset + place.numel, first + group.size),
                )
                moment = saved.moment(place.name, key) if begin < end else None
                if moment is not None:
                    own = moment[begin - place.offset : end - place.offset]
                    flat[begin - first : end - first] = own
            tensors[f"shard/optimizer/{number}/{key}"] = flat
        tensors |= _steps(saved, group, f"shard/optimizer/{number}")
    return tensors


def _sliced(saved: SavedState, layout: Layout, rank: int) -> dict[str, Tensor]:
    tensors = {}
    for number, group in enumerate(layout.groups):
        for key in (WEIGHTS, *MOMENTS):
            flat = torch.zeros(group.size)
            for place in group.places:
                found = (
                    saved.weight(place.name) if key == WEIGHTS else saved.moment(place.name, key)
                )
                if found is not None:
                    part = place.part(layout.ranks)
                    own = found[rank * part : (rank + 1) * part]
                    flat[place.offset : place.offset + len(own)] = own
            tensors[f"shard/{number}/{key}"] = flat
        tensors |= _steps(saved, group, f"shard/{number}")
    return tensors


def _steps(saved: SavedState, group: Group, name: str) -> dict[str, Tensor]:
    """Return the steps of a group, which are those of its first weight that has learnt."""
    found = (saved.steps(place.name) for place in group.places)
    known = [steps for steps in found if steps is not None]
    return {f"{name}/{STEP}": known[0]} if known else {}
