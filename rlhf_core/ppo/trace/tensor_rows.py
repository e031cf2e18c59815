"""Tensors as rows of the trace's table: name, axes, shape, type, bytes, meaning."""

import re
from dataclasses import fields

import torch
from torch import Tensor

from rlhf_core.batching.batch import Batch
from rlhf_core.engine.base import Engine
from rlhf_core.modeling.lora import is_of_adapter
from rlhf_core.ppo.experience import Experience, ExperienceRows
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.trace.meanings import TENSORS
from rlhf_core.ppo.trace.observe import Pass


def tensor_row(name: str, tensor: Tensor, *, by: str | None = None, of: int = 1) -> dict:
    """Return one row of the table.

    by: the model that gave it. of: how many like it there are, of which this is the largest.
    """
    return {
        "name": name,
        "by": by,
        "axes": axes(name),
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).split(".")[-1],
        "bytes": tensor.nbytes,
        "count": of,
        "meaning": TENSORS[name],
    }


def axes(name: str) -> list[str]:
    """Return the axes that a name ends in: old_logprobs_BR -> B, R; scores_BR1 -> B, R1."""
    letters = name.rpartition("_")[2] if "_" in name else ""
    if not letters.isupper():
        return []
    return re.findall("[A-Z]1?", letters)


def batch_rows(batch: Batch) -> list[dict]:
    """Return the rows of the padded batch."""
    names = ("ids_BL", "mask_BL", "response_mask_BR")
    return [tensor_row(name, getattr(batch, name)) for name in names]


def experience_rows(experience: Experience) -> list[dict]:
    """Return the rows of an experience; tensors of options that are off are left out."""
    outputs, rewards, estimates = experience.outputs, experience.rewards, experience.estimates
    tensors = {
        "ended_B": experience.ended_B,
        "model_score_B": experience.reward_model.score_B,
        "spread_B": experience.reward_model.spread_B,
        "function_scores_BF": rewards.function_scores_BF,
        "score_B": rewards.score_B,
        "final_B": rewards.final_B,
        "process_BR": rewards.process_BR,
        "sampler_logprobs_BR": experience.sampler_logprobs_BR,
        "old_logprobs_BR": outputs.old_logprobs_BR,
        "ref_logprobs_BR": outputs.ref_logprobs_BR,
        "exact_kl_BR": outputs.exact_kl_BR,
        "entropy_BR": outputs.entropy_BR,
        "values_BR": outputs.values_BR,
        "end_values_B": outputs.end_values_B,
        "advantages_BR": estimates.advantages_BR,
        "returns_BR": estimates.returns_BR,
        "importance_BR": estimates.importance_BR,
        "rewards_BR": estimates.rewards_BR,
        "kl_BR": outputs.kl_BR,
        "reward_B": experience.reward_B,
    }
    return [tensor_row(name, tensor) for name, tensor in tensors.items() if tensor is not None]


def output_rows(passes: list[Pass]) -> list[dict]:
    """Return the largest output of each model."""
    names = {"sampler": "hidden_TD", "actor": "logprobs_BR", "reference": "logprobs_BR"}
    rows = []
    for model in dict.fromkeys(one.model for one in passes):
        own = [one.output for one in passes if one.model == model]
        largest = max(own, key=lambda x: x.nbytes)
        name = "logits_BRV" if largest.ndim == 3 else names.get(model, "scores_BR1")
        rows.append(tensor_row(name, largest, by=model, of=len(own)))
        if values := [
            one.values for one in passes if one.model == model and one.values is not None
        ]:
            rows.append(
                tensor_row(
                    "values_BR1", max(values, key=lambda x: x.nbytes), by=model, of=len(values)
                )
            )
    return rows


def update_rows(passes: list[Pass]) -> list[dict]:
    """Return what the update takes of the largest microbatch.

    The columns of ExperienceRows, shaped as the batch that went in.
    """
    shapes = [one.batch for one in passes if one.batch]
    B, L, R = max(shapes, key=lambda shape: shape[0] * shape[1])
    names = [field.name for field in fields(ExperienceRows) if field.name.endswith("_BR")]
    kinds = {
        "ids_BL": (L, torch.int64),
        "mask_BL": (L, torch.bool),
        "response_mask_BR": (R, torch.bool),
    }
    kinds |= {name: (R, torch.float32) for name in names}
    count = sum(one.model == passes[0].model for one in passes)
    return [
        tensor_row(name, torch.empty(B, wide, dtype=kind, device="meta"), of=count)
        for name, (wide, kind) in kinds.items()
    ]


def list_rows(rollout: Rollout) -> list[dict]:
    """Return the rollout's lists, of unequal lengths; bytes as 64-bit values."""
    columns: dict[str, tuple[list[list], str, str]] = {
        "prompt_ids": ([s.prompt for s in rollout.sequences], "BP", "int"),
        "response_ids": ([s.response for s in rollout.sequences], "BR", "int"),
        "sampler_logprobs": (rollout.sampler_logprobs, "BR", "float"),
    }
    rows = []
    for name, (lists, letters, kind) in columns.items():
        lengths = [len(one) for one in lists]
        span = f"{min(lengths)} to {max(lengths)}"
        rows.append(
            {
                "name": name,
                "by": None,
                "axes": list(letters),
                "shape": [len(lists), span],
                "dtype": f"lists of {kind}",
                "bytes": 8 * sum(lengths),
                "count": 1,
                "meaning": TENSORS[name],
            }
        )
    return rows


def weights_row(actor: Engine) -> dict:
    """Return the row of the actor's weights, which the sampler gets."""
    named = actor.module.model.state_dict(keep_vars=True).items()
    tensors = [tensor for name, tensor in named if not is_of_adapter(name)]
    # `ds_numel`: of the whole weight, where a rank holds a part of it
    sizes = [getattr(tensor, "ds_numel", tensor.numel()) for tensor in tensors]
    kinds = sorted({str(tensor.dtype).split(".")[-1] for tensor in tensors})
    return {
        "name": "actor weights",
        "by": "actor",
        "axes": [],
        "shape": [f"{sum(sizes):,} numbers"],
        "dtype": ", ".join(kinds),
        "bytes": sum(n * tensor.element_size() for n, tensor in zip(sizes, tensors, strict=True)),
        "count": len(tensors),
        "meaning": TENSORS["actor weights"],
    }
