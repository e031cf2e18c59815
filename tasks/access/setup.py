"""`rlhf access setup`: part the pipeline's account from those that promote and approve.

Only what the server lacks is made, so a second run changes nothing. An account that is not named
keeps what it has.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from rlhf_core.errors import BadInput, RLHFError
from tasks.access.accounts import ROLES, Accounts
from tasks.access.passwords import given_password, password_of, password_variable
from tasks.access.roles import (
    EDIT,
    EXPERIMENT,
    MANAGE,
    MODEL,
    Grant,
    Role,
    candidate_models,
    experiments,
    grants,
    promoted_models,
    role_name,
)
from tasks.registry.approval_queue import (
    experiment_name,
    find_queue,
    make_queue,
    record_place,
    recorded_place,
    set_members,
)
from tasks.tracking.account import account_at

if TYPE_CHECKING:
    from mlflow.server.auth.client import AuthServiceClient

WORKSPACE = "default"  # MLflow's own, in which everything is unless others were made
# names of a database's error for a second row of one key, which MLflow's server hands on
_SECOND_ROW = ("IntegrityError", "UniqueViolation")
_ABOUT = "Made by rlhf access setup. infra/docs/operate/access.md says who may write what."


@dataclass
class AccessSetup:
    """The setup of one registry name by an admin.

    passwords: folder for those of new accounts. dry_run: change nothing. made: a sentence about
    each change that was made, or would be.
    """

    client: MlflowClient
    accounts: Accounts
    passwords: Path
    dry_run: bool = False
    made: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        """Make what is missing, and return a sentence about each change.

        Raises BadInput for an account that is no admin, RLHFError where the pipeline's account may
        promote all the same.
        """
        self._require_admin()
        new = self._new_accounts()
        for account in new:
            given_password(account)  # one that is too short is refused before anything is made
        for account in new:
            self._account(account)
        name = self.accounts.name
        for model in (*promoted_models(name), *candidate_models(name)):
            self._model(model)
        for experiment in experiments(name):
            self._experiment(experiment)
        for role in ROLES:
            self._role(role)
        self._queue()
        self._part()
        return self.made

    @cached_property
    def _server(self) -> "AuthServiceClient":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the import loads MLflow's server, which warns
            from mlflow.server.auth.client import AuthServiceClient

        return AuthServiceClient(self.client.tracking_uri)

    def _make(self, sentence: str, action: Callable[..., object], *values: object) -> None:
        if not self.dry_run:
            try:
                action(*values)
            except MlflowException as error:
                if not _is_made_already(error):
                    raise
                return  # another setup was faster
        self.made.append(sentence)

    def _require_admin(self) -> None:
        account = account_at(self.client.tracking_uri)
        if not account.is_authenticated:
            raise BadInput(
                "MLflow has no accounts here; expected a server that was started with"
                " --app-name basic-auth (MLFLOW_TRACKING_URI)."
            )
        if not account.is_admin:
            raise BadInput(
                f"the account {account.name} is no admin of MLflow's server; expected one: set"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            )

    # what there must be

    def _new_accounts(self) -> list[str]:
        names = dict.fromkeys(name for role in ROLES for name in self.accounts.of(role))
        return [name for name in names if not _is_there(self._server.get_user, name)]

    def _account(self, account: str) -> None:
        source = f"password: {password_variable(account)} if set, else in {self.passwords}"
        self._make(f"create the account {account} ({source})", self._create_account, account)

    def _create_account(self, account: str) -> None:
        self._server.create_user(account, password_of(account, self.passwords))

    def _model(self, model: str) -> None:
        if not self.client.search_registered_models(f"name = '{model}'"):
            self._make(
                f"create the registered model {model}",
                self.client.create_registered_model,
                model,
                None,  # its tags
                _ABOUT,
            )

    def _experiment(self, name: str) -> None:
        if self.client.get_experiment_by_name(name) is None:
            self._make(f"create the experiment {name}", self.client.create_experiment, name)

    # who may write it

    def _role(self, role: Role) -> None:
        name = role_name(self.accounts.name, role)
        if self._role_id(name) is None:
            create = self._server.create_role
            self._make(f"create the role {name}", create, WORKSPACE, name, _ABOUT)
        number = self._role_id(name)
        held = self._server.list_role_permissions(number) if number is not None else []
        there = {(item.resource_type, item.resource_pattern, item.permission) for item in held}
        for grant in grants(self.accounts.name, role):
            resource = self._resource(grant)
            if (grant.kind, resource, grant.permission) not in there:
                self._make(
                    f"let {name} write {grant.kind.replace('_', ' ')} {grant.name}"
                    f" ({grant.permission})",
                    self._server.add_role_permission,
                    number,
                    grant.kind,
                    resource,
                    grant.permission,
                )
        users = self._users(number)
        for account in self.accounts.of(role):
            if account not in users:
                give = self._server.assign_role
                self._make(f"give {account} the role {name}", give, account, number)

    def _role_id(self, name: str) -> int | None:
        roles = self._server.list_roles(WORKSPACE)
        return next((role.id for role in roles if role.name == name), None)

    def _resource(self, grant: Grant) -> str | None:
        """Return how MLflow names what a grant is about; None before it exists."""
        if grant.kind == MODEL:
            return grant.name
        experiment = self.client.get_experiment_by_name(grant.name)
        return experiment.experiment_id if experiment else None

    def _users(self, role: int | None) -> set[str]:
        """Return the accounts of a role; there is none before the role exists."""
        if role is None:
            return set()
        ids = {item.user_id for item in self._server.list_role_users(role)}
        named = {name for each in ROLES for name in self.accounts.of(each)}
        known = [name for name in named if _is_there(self._server.get_user, name)]
        return {name for name in known if self._server.get_user(name).id in ids}

    def _queue(self) -> None:
        """Make the queue of approvals, and let the approvers answer."""
        name, approvers = self.accounts.name, [a.lower() for a in self.accounts.approvers]
        queue = find_queue(self.client, name)
        if queue is None:
            experiment = self.client.get_experiment_by_name(experiment_name(name))
            number = experiment.experiment_id if experiment else ""
            self._make(
                f"let {', '.join(approvers)} approve the runs of {name}",
                make_queue,
                self.client,
                number,
                approvers,
            )
        elif new := [account for account in approvers if account not in queue.members]:
            sentence, members = f"let {', '.join(new)} approve the runs of {name}", queue.members
            self._make(sentence, set_members, queue, [*members, *new])
        if not recorded_place(self.client, name):
            sentence = f"keep the queue of approvals of {name} in its ledger"
            self._make(sentence, record_place, self.client, name)

    # who may no longer

    def _part(self) -> None:
        """Take away what the pipeline's account may do beyond its role. Raises RLHFError."""
        account = self.accounts.pipeline
        if not _is_there(self._server.get_user, account):
            return
        kept = []
        for right, forbidden in self._forbidden():
            resource = self._resource(right)
            if resource is None or not self._has(account, right.kind, resource, forbidden):
                continue
            self._make(
                f"take from {account} its own right to {right.kind.replace('_', ' ')} {right.name}",
                _is_there,  # the right may come from a role
                self._server.revoke_user_permission,
                account,
                right.kind,
                resource,
            )
            if not self.dry_run and self._has(account, right.kind, resource, forbidden):
                kept.append(right.name)
        queue = None if self.dry_run else find_queue(self.client, self.accounts.name)
        if queue and queue.owner.lower() == account.lower():
            kept.append(f"the queue in {experiment_name(self.accounts.name)}, which it has made")
        if kept:
            raise RLHFError(
                f"the account {account} may still write {', '.join(kept)}: it is an admin, has"
                " another role that lets it, or the server's default_permission does; expected that"
                " it may only read. Change that, and run this command again."
            )

    def _forbidden(self) -> list[tuple[Grant, tuple[str, ...]]]:
        """Return what the pipeline's account must not have: a right, and its permissions."""
        promoted, approvals = experiments(self.accounts.name)
        models = [Grant(MODEL, model, EDIT) for model in promoted_models(self.accounts.name)]
        rights = [*models, Grant(EXPERIMENT, promoted, EDIT)]
        found: list[tuple[Grant, tuple[str, ...]]] = [(right, (EDIT, MANAGE)) for right in rights]
        return [*found, (Grant(EXPERIMENT, approvals, MANAGE), (MANAGE,))]

    def _has(self, account: str, kind: str, resource: str, permissions: tuple[str, ...]) -> bool:
        if self._server.get_user(account).is_admin:
            return True
        return self._server.get_user_permission(account, kind, resource).permission in permissions


def _is_made_already(error: MlflowException) -> bool:
    """Return True where the server answers that what is to be made is there by now."""
    return error.error_code == "RESOURCE_ALREADY_EXISTS" or any(
        name in str(error) for name in _SECOND_ROW
    )


def _is_there(ask: Callable[..., object], *values: object) -> bool:
    """Return False where the server answers that what is asked for does not exist."""
    try:
        ask(*values)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True
