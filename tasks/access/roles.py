"""The roles of one registry name, and what each may write. Everybody may read."""

from dataclasses import dataclass
from typing import Literal

from rlhf_core.config.registry import CANDIDATES

Role = Literal["pipeline", "promoter", "approver"]
MODEL, EXPERIMENT = "registered_model", "experiment"  # MLflow's names of what rights are about
EDIT, MANAGE = "EDIT", "MANAGE"  # to write; to delete as well


@dataclass(frozen=True)
class Grant:
    """The right to write one registered model or experiment."""

    kind: str
    name: str
    permission: str


def promoted_models(name: str) -> list[str]:
    """Return the models that the promoter alone may write."""
    return [f"{name}-policy", f"{name}-reward", f"{name}-ledger"]


def candidate_models(name: str) -> list[str]:
    """Return the models that the pipeline's account may write."""
    return [f"{name}{CANDIDATES}-{what}" for what in ("policy", "reward", "ledger")]


def experiments(name: str) -> list[str]:
    """Return the experiments of the promoter's copies and of the approvals."""
    return [f"{name}-promoted", f"{name}-approvals"]


def role_name(name: str, role: Role) -> str:
    """Return the name of a role on MLflow's server."""
    return f"{name}-{role}"


def grants(name: str, role: Role) -> list[Grant]:
    """Return what a role may write.

    A ledger is written and never deleted from. Everybody who asks or answers writes the experiment
    of approvals; who may answer is said by its queue.
    """
    promoted, approvals = experiments(name)
    answers = Grant(EXPERIMENT, approvals, EDIT)
    if role == "approver":
        return [answers]
    models = candidate_models(name) if role == "pipeline" else promoted_models(name)
    found = [Grant(MODEL, model, EDIT if model.endswith("-ledger") else MANAGE) for model in models]
    if role == "promoter":
        found.append(Grant(EXPERIMENT, promoted, MANAGE))
    return [*found, answers]
