"""Ensembles of reward models: the same comparisons, several models; their spread is uncertainty.

FOLDER/               member 1 as transformers saves it: a reward model by itself, where the critic
                      starts
FOLDER/member_2/ ...  the others
FOLDER/ensemble.json  {"offsets": [...]}: the mean held-out score of each member

One folder is one artifact: the digest that gates, registry and cache use covers every member, so
what is gated is what is registered and served. Bradley-Terry leaves the zero of each member's
scores free. Without subtracting it, the spread of the members would say where their zeros are, and
nothing else (Eisenstein et al. 2023, arXiv:2312.09244, section 3).
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from rlhf_core.config import FrozenPlacement
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.base import Forward
from rlhf_core.errors import BadInput
from rlhf_core.modeling.half import computed_dtype
from rlhf_core.modeling.models import inference, load_scalar
from rlhf_core.modeling.packed_attention import require_separation, without_padding
from rlhf_core.modeling.reading import reads_the_same
from rlhf_core.rundir import ENSEMBLE, write_atomically


def member_folder(folder: Path, number: int) -> Path:
    """Return the folder of member `number`, from 1, in an ensemble's folder."""
    return folder if number == 1 else folder / f"member_{number}"


def close_ensemble(folder: Path, offsets: list[float]) -> None:
    """Write ensemble.json: the members are complete."""
    write_atomically(folder / ENSEMBLE, json.dumps({"offsets": offsets}))


def offsets_of(folder: Path) -> list[float]:
    """Return each member's offset, a score; [0.0] for a single reward model.

    Raises BadInput when the folder is incomplete.
    """
    file = folder / ENSEMBLE
    if not file.exists():
        if (folder / "member_2").exists():
            raise BadInput(
                f"{folder} holds members of an ensemble without {ENSEMBLE}; copy the whole folder"
                " again."
            )
        return [0.0]
    try:
        offsets = [
            float(value) for value in json.loads(file.read_text(encoding="utf-8"))["offsets"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{file} cannot be read ({error!r}); expected the file that the reward stage wrote."
        ) from None
    if len(offsets) < 2 or not all(map(math.isfinite, offsets)):
        raise BadInput(
            f"{file} has the offsets {offsets}; expected a finite number for each of two members or"
            " more."
        )
    if missing := [
        n
        for n in range(1, len(offsets) + 1)
        if not (member_folder(folder, n) / "config.json").exists()
    ]:
        raise BadInput(
            f"{folder} lacks the members {missing} of {len(offsets)}; copy the whole folder again."
        )
    return offsets


def load_members(
    folder: Path,
    *,
    dtype: str,
    frozen: FrozenPlacement = "whole",
    weights: str | None = "float32",
    packing: bool = False,
    share_prompts: bool = False,
) -> Iterator[Forward]:
    """Yield the forward pass of each member, loaded one after the other.

    It gives (B, R + 1) scores less the member's offset. weights: as for `inference`. packing: it
    reads batches without padding. share_prompts: it reads a prompt once for neighbours. Raises
    BadInput for members of different tokenizers, since one rendering is scored by all.
    """
    offsets, computed = offsets_of(folder), computed_dtype(dtype, weights)
    _require_one_rendering(folder, len(offsets))
    for number, offset in enumerate(offsets, start=1):
        member = load_scalar(member_folder(folder, number), mapped=True)
        member = without_padding(member, on=packing, dtype=computed, share_prompts=share_prompts)
        forward = inference(member, dtype=dtype, frozen=frozen, weights=weights)
        if packing:
            require_separation(forward, dtype=computed, share_prompts=share_prompts)
        yield forward if len(offsets) == 1 else _shifted(forward, offset)


def _require_one_rendering(folder: Path, members: int) -> None:
    first = load_tokenizer(folder) if members > 1 else None
    for number in range(2, members + 1):
        other = member_folder(folder, number)
        if first and not reads_the_same(load_tokenizer(other), first):
            raise BadInput(
                f"{other} has another tokenizer or chat template than member 1 of the ensemble"
                f" {folder}; expected the same for all members. Train the ensemble again."
            )


def _shifted(forward: Forward, offset: float) -> Forward:
    return lambda batch: forward(batch) - offset
