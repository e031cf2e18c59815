"""The rights of an account of MLflow's server: who may register, and who may promote."""

import logging

from rlhf_core.config.registry import Registry
from rlhf_core.errors import BadInput, PromotionRefused
from tasks.tracking.account import account_at, is_server, may_write_model
from tasks.tracking.client import brief, connect

log = logging.getLogger("rlhf.rights")


def refusal(name: str, model: str, account: str) -> PromotionRefused:
    """Return the refusal of MLflow's server to let an account write a model of a registry name."""
    return PromotionRefused(
        f"Permission denied: MLflow's server does not let the account {account} write {model}. No"
        f" alias was moved. Ask an account with the role {name}-promoter (an admin gives it: rlhf"
        f" access setup {name})."
    )


def require_rights(uri: str, registry: Registry) -> None:
    """Raise BadInput where this process's account may not write the models of a recipe.

    So does a recipe that requires approval where the server has accounts and no queue of approvals.
    It is asked before anything trains. A store without accounts lets everybody write; a server that
    does not answer is asked again when the models are registered.
    """
    if not is_server(uri):
        return
    try:
        account, client = account_at(uri), connect(uri)
        if not account.is_authenticated:
            return
        if registry.approval.required:
            # MLflow's package for reviews, which takes a second to import
            from tasks.registry.approval_queue import require_queue

            require_queue(client, registry.name)
        models = [f"{registry.registered_as}-{kind}" for kind in ("policy", "reward")]
        there = [name for name in models if client.search_registered_models(f"name = '{name}'")]
        forbidden = [name for name in there if not may_write_model(uri, account, name)]
    except BadInput:
        raise
    except Exception as error:
        log.warning("MLflow does not say what this account may do (%s)", brief(error))
        return
    if forbidden:
        raise BadInput(_no_right(account.name, registry, forbidden))


def _no_right(account: str, registry: Registry, models: list[str]) -> str:
    found = (
        f"the account {account} of MLflow's server may not write {' and '.join(models)}, where this"
        " recipe registers its models"
    )
    if registry.separate_promoter:
        role = f"{registry.name}-pipeline"
        return f"{found}; ask an admin for the role {role} (rlhf access setup {registry.name})."
    return (
        f"{found}. Set registry.separate_promoter=true: they are registered as"
        f" {registry.name}-candidate-policy and -reward, and another account promotes them."
    )
