"""Answers of trl's KTOTrainer, of the version that the benchmark compares with.

    .venv/stage/bench/bin/python infra/parity/trl_kto_cases.py tests/core/objectives/fixtures

It writes trl_kto.safetensors. trl 0.11.4, which the other answers are of, needs an old
transformers, and its KTOTrainer has been written anew since. This file runs the method
`_compute_loss` of the installed trl (infra/bench/requirements.txt) on a stand-in for a language
model, which gives the seeded log-probabilities as those of one-token replies.
"""

import json
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import Tensor
from trl.trainer.kto_trainer import KTOTrainer

SEED, ROWS = 20261128, 12
# beta, weight of thumbs up, weight of thumbs down
SETTINGS = {"plain": (0.1, 1.0, 1.0), "weighted": (0.3, 1.0, 1.6), "rarer": (0.1, 1.33, 1.0)}
LABELS = {
    "mixed": [True, False, False, True, True, False, True, False, False, True, False, True],
    "up": [True] * ROWS,
    "down": [False] * ROWS,
}


class Accelerator:
    """The calls of one process."""

    device = torch.device("cpu")

    def gather_for_metrics(self, value: Tensor) -> Tensor:
        """Return the value of the only process."""
        return value


def logprobs_model(policy_N: Tensor, mismatched_N: Tensor):
    """Return a model of rows of two tokens, whose second one has the log-probability."""

    def forward(input_ids: Tensor, **_options: object) -> SimpleNamespace:
        is_mismatched = bool(input_ids[0, 0])
        logprobs_N1 = (mismatched_N if is_mismatched else policy_N)[:, None]
        zeros_N1 = torch.zeros_like(logprobs_N1).detach()
        return SimpleNamespace(
            log_probs=logprobs_N1, entropy=zeros_N1, mean_logits=zeros_N1, logits=None
        )

    return forward


def trainer(beta: float, up: float, down: float) -> KTOTrainer:
    """Return a KTOTrainer without running its constructor."""
    made = object.__new__(KTOTrainer)
    made.beta, made.desirable_weight, made.undesirable_weight = beta, up, down
    made.loss_type, made.calculate_KL, made.precompute_ref_logps = "kto", True, True
    made.aux_loss_enabled, made.accelerator = False, Accelerator()
    made.model = SimpleNamespace(training=True)
    made._metrics, made._total_train_tokens = {"train": defaultdict(list)}, 0
    made._tp_size, made.args = 1, SimpleNamespace(gradient_checkpointing_kwargs=None)
    return made


def answer(x: dict[str, Tensor], labels: list[bool], setting: tuple[float, float, float]) -> dict:
    """Return loss, gradient and z0."""
    policy_N = x["policy"].clone().requires_grad_()
    ids_N2, ones_N2 = torch.zeros(ROWS, 2, dtype=torch.long), torch.ones(ROWS, 2, dtype=torch.long)
    second_N2 = torch.tensor([[0, 1]]).repeat(ROWS, 1)
    batch = {
        "input_ids": ids_N2,
        "attention_mask": ones_N2,
        "completion_mask": second_N2,
        "KL_input_ids": ones_N2,
        "KL_attention_mask": ones_N2,
        "KL_completion_mask": second_N2,
        "label": torch.tensor(labels),
        "ref_logps": x["reference"],
        "ref_KL_logps": x["reference_mismatched"],
    }
    made = trainer(*setting)
    model = logprobs_model(policy_N, x["mismatched"])
    loss = made._compute_loss(model, batch, False)
    loss.backward()
    kl = torch.tensor(made._metrics["train"]["kl"][0], dtype=torch.float64)
    return {"loss": loss.detach(), "gradient": policy_N.grad, "kl": kl}


def inputs() -> dict[str, Tensor]:
    """Return seeded log-probabilities of replies; `away` has a negative estimate of the KL."""
    generator = torch.Generator().manual_seed(SEED)

    def normal() -> Tensor:
        return torch.randn(ROWS, generator=generator, dtype=torch.float64)

    reference, mismatched = normal() - 20, normal() - 30
    return {
        "policy": reference + 4 * normal(),
        "reference": reference,
        "mismatched": mismatched + 1.5 + normal(),
        "reference_mismatched": mismatched,
    }


def main(folder: Path) -> None:
    """Write inputs and answers."""
    x = inputs()
    away = x | {"mismatched": x["reference_mismatched"] - 1.0}
    tensors = {f"inputs/{name}": value for name, value in x.items()}
    for name, labels in LABELS.items():
        tensors[f"labels/{name}"] = torch.tensor(labels)
    for setting, values in SETTINGS.items():
        for name, labels in LABELS.items():
            for kind, given in (("near", x), ("away", away)):
                found = answer(given, labels, values)
                tensors |= {f"{setting}/{name}/{kind}/{k}": v for k, v in found.items()}
    versions = {package: version(package) for package in ("trl", "torch")}
    made_by = {"versions": versions, "seed": SEED, "settings": SETTINGS}
    copies = {name: value.contiguous().clone() for name, value in tensors.items()}
    save_file(copies, folder / "trl_kto.safetensors", {"made_by": json.dumps(made_by)})
    print(f"trl_kto: {len(copies)} tensors")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: trl_kto_cases.py FOLDER")
    main(Path(sys.argv[1]))
