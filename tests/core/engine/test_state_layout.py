"""A state is found again among another number of ranks, and in another division."""

import itertools
import json
import random
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import SFT, LoRA
from rlhf_core.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.engine.state_layout import Group, Layout, SavedState, WeightPlace, own_part
from rlhf_core.errors import BadInput
from rlhf_core.modeling.lora import with_adapter
from rlhf_core.modeling.models import load_policy
from rlhf_core.objectives.losses import cross_entropy, token_logprobs

SHAPES = {"a": (3, 5), "b": (7,), "c": (2, 2)}
TWO_GROUPS = (("a", "c"), ("b",))  # as with weight decay


def layout(kind: str, ranks: int) -> Layout:
    """Return the layout of SHAPES as DeepSpeed makes it; flat vectors are aligned to 2 x ranks."""
    groups = []
    for names in TWO_GROUPS:
        places, offset = [], 0
        for name in names:
            place = WeightPlace(name, SHAPES[name], offset)
            places.append(place)
            offset += {"whole": 0, "flat": place.numel, "sliced": place.part(ranks)}[kind]
        size = -(-offset // (2 * ranks)) * 2 if kind == "flat" else offset
        groups.append(Group(places=places, size=size))
    return Layout(kind=kind, ranks=ranks, groups=groups)


def whole_state() -> dict[str, torch.Tensor]:
    """Return weights and AdamW state of ZeRO 0, every number different."""
    numbers = itertools.count()
    tensors = {}
    for index, name in enumerate(name for names in TWO_GROUPS for name in names):
        for entry in (f"weights/{name}", *(f"optimizer/{index}/{k}" for k in MOMENTS)):
            size = torch.Size(SHAPES[name]).numel()
            found = [float(next(numbers)) for _ in range(size)]
            tensors[entry] = torch.tensor(found).view(SHAPES[name])
        tensors[f"optimizer/{index}/step"] = torch.tensor(4.0)
    return tensors


MOMENTS = ("exp_avg", "exp_avg_sq")
DIVISIONS = [(kind, n) for kind in ("whole", "flat", "sliced") for n in (1, 2, 3)]


def written(tmp_path, state: SavedState, found: Layout) -> SavedState:
    """Write every rank's part of a state in a layout, and open the files."""
    files = []
    for rank in range(found.ranks):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        part = own_part(state, found, rank)
        save_file({f"actor/{name}": value.clone() for name, value in part.items()}, file)
        files.append(safe_open(file, framework="pt"))
    return SavedState(files, found, "actor/")


@pytest.mark.parametrize("division", DIVISIONS)
def test_every_division_gives_the_whole_state_back(tmp_path, division):
    whole, first = whole_state(), tmp_path / "whole.safetensors"
    save_file(whole, first)
    saved = SavedState([safe_open(first, framework="pt")], layout("whole", 1))
    for other in DIVISIONS:
        there = written(tmp_path, saved, layout(*division))
        again = written(tmp_path, there, layout(*other))
        found = own_part(again, layout("whole", 1), 0)
        assert found.keys() == whole.keys()
        assert all(found[name].equal(whole[name]) for name in whole)


def test_flat_parts_are_the_vector_cut_at_equal_lengths(tmp_path):
    """By hand: a (15) and c (4) are 19 numbers, 20 with padding; each of two ranks has 10."""
    whole, file = whole_state(), tmp_path / "whole.safetensors"
    save_file(whole, file)
    saved = SavedState([safe_open(file, framework="pt")], layout("whole", 1))
    first, second = (own_part(saved, layout("flat", 2), rank) for rank in (0, 1))
    a, c = (whole[f"optimizer/{index}/exp_avg"].flatten() for index in (0, 1))
    assert first["shard/optimizer/0/exp_avg"].equal(a[:10])
    assert second["shard/optimizer/0/exp_avg"].equal(torch.cat([a[10:], c, torch.zeros(1)]))


def test_other_weights_are_refused(tmp_path):
    file = tmp_path / "whole.safetensors"
    save_file(whole_state(), file)
    saved = SavedState([safe_open(file, framework="pt")], layout("whole", 1))
    other = Layout(kind="whole", ranks=1, groups=(Group(places=(WeightPlace("d", (2,), 0),)),))
    with pytest.raises(RuntimeError, match="a checkpoint of other weights"):
        own_part(saved, other, 0)


def test_a_checkpoint_without_layouts_is_for_as_many_ranks(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, Checkpoint(1, {"w": torch.ones(2)}, {}), keep=1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(BadInput, match="start as many again, or remove the folder to begin anew"):
        load_checkpoint(tmp_path, {"": layout("whole", 1)})


def test_its_refusal_names_the_directory_that_it_is_from(tmp_path):
    """Without removing that one too, the same checkpoint would be copied again."""
    run_dir = tmp_path / "sft-2"
    checkpoints = run_dir / "checkpoints"
    save_checkpoint(checkpoints, Checkpoint(1, {"w": torch.ones(2)}, {}), keep=1)
    one = {"run_dir": "sft-1", "ranks": 1, "checkpoint": "step-000001"}
    (run_dir / "continued.json").write_text(json.dumps([one]))
    both = re.escape(f"remove {run_dir} and {tmp_path / 'sft-1'} to begin anew")
    with pytest.raises(BadInput, match=both):
        load_checkpoint(checkpoints, {"": layout("whole", 1)})


def test_tensors_of_no_engine_are_found_again_in_another_division(tmp_path):
    tensors = {f"actor/{name}": value for name, value in whole_state().items()}
    pending = torch.tensor([-0.1, 1 / 3], dtype=torch.float64)
    checkpoint = Checkpoint(
        1, tensors | {"pending/logprobs": pending}, {}, {"actor/": layout("whole", 1)}
    )
    save_checkpoint(tmp_path, checkpoint, keep=1)
    found = load_checkpoint(tmp_path, {"actor/": layout("flat", 1)}).tensors
    others = {name for name in found if not name.startswith("actor/")}
    assert others == {"pending/logprobs"} and found["pending/logprobs"].equal(pending)


def stepped(engine: DeepSpeedEngine, steps: range) -> list[float]:
    """Return loss and gradient norm of each step on a batch of its own."""
    found = []
    for step in steps:
        rng = random.Random(step)
        rows = [
            Sequence(rng.choices(range(6, 60), k=3), rng.choices(range(6, 60), k=5))
            for _ in range(4)
        ]
        batch = collate(rows, 0)
        logprobs_BR = token_logprobs(engine(batch), batch.response_ids_BR)
        loss = cross_entropy(logprobs_BR, batch.response_mask_BR, 20)
        engine.backward(loss)
        found += [loss.item(), engine.step(1e-2)]
    return found


def engine(folder, zero_stage: int, lora: LoRA | None = None) -> DeepSpeedEngine:
    config = SFT(zero_stage=zero_stage, weight_decay=0.1, lora=lora)
    policy = with_adapter(load_policy(folder), lora, seed=1)
    return DeepSpeedEngine(policy, config, dtype="float32")


@pytest.mark.parametrize(
    ("lora", "stages"),
    [(None, (0, 1, 2, 3)), (LoRA(rank=4), (2, 3))],
    ids=["all weights", "adapters"],
)
def test_deepspeeds_state_goes_on_at_the_same_zero_stage_and_at_the_next(
    tiny_model, tmp_path, lora, stages
):
    plain = engine(tiny_model, 0, lora)
    expected = stepped(plain, range(5))
    for zero in stages:
        first = engine(tiny_model, zero, lora)
        stepped(first, range(3))
        checkpoint = Checkpoint(3, first.state(), {}, {"": first.layout()})
        save_checkpoint(tmp_path / str(zero), checkpoint, keep=1)
        for other in (zero, (zero + 1) % 4):
            second = engine(tiny_model, other, lora)
            found = load_checkpoint(tmp_path / str(zero), {"": second.layout()})
            second.load_state(found.tensors)
            assert stepped(second, range(3, 5)) == pytest.approx(expected[6:], abs=1e-5, rel=1e-5)
