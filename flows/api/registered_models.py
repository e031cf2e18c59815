"""The two registered models of a registry name: who is champion, who was, and who is to be."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict, Unpack

from flows.api.arguments import require_known, require_text
from flows.api.promotion_options import CheckedRequest, approval_of, checked_request
from flows.api.session import begin
from rlhf_core.errors import BadInput

if TYPE_CHECKING:
    from pandas import DataFrame

    from tasks.promotion.aliases import RegistryAliases
    from tasks.promotion.champions import Champion
    from tasks.promotion.promotion import History, PromotionRequest, PromotionResult
    from tasks.promotion.rehearsal import Rehearsal
    from tasks.records.run_record import ModelKind


class PromotionOptions(TypedDict, total=False):
    """The options of a promotion besides its version.

    expect_current: refuse unless this version is champion now, 0 for none. override_contest: why a
    policy is promoted that has not beaten the champion. approved_by, comment: who approved, where
    the recipe requires it and no approval is recorded. adopt: go on although aliases were moved
    without the ledger; needs a reason.
    """

    expect_current: int | None
    override_contest: str
    approved_by: str
    comment: str
    adopt: bool


@dataclass(frozen=True)
class ModelRegistry:
    """The policy and the reward model that are registered under one name, and their ledger.

    The methods are about the policy; with a name that ends with -reward, about the reward model.
    """

    name: str

    @property
    def champion(self) -> "Champion | None":
        """The champion by the ledger, with `version` and `digest`; None without one."""
        from tasks.promotion.aliases import champion_history

        registry, kind = self._opened(must_exist=False)
        states = champion_history(registry.ledger.entries())
        return states[-1].champion(kind) if states else None

    def versions(self) -> "DataFrame":
        """Return the registered versions as a pandas frame, the latest first.

        Raises BadInput when there is no such model.
        """
        import pandas

        from tasks.tracking.pages import model_versions

        registry, kind = self._opened()
        aliases: dict[str, list[str]] = {}
        model = registry.client.get_registered_model(registry.model(kind))
        for alias, number in model.aliases.items():
            aliases.setdefault(str(number), []).append(alias)
        rows = [
            {
                "version": int(found.version),
                "aliases": ", ".join(sorted(aliases.get(str(found.version), []))),
                "digest": found.tags.get("digest", "")[:12],
                "run_id": found.tags.get("pipeline_run_id", ""),
                "registered": pandas.Timestamp(found.creation_timestamp, unit="ms", tz="UTC"),
            }
            for found in model_versions(registry.client, f"name = '{model.name}'")
        ]
        return pandas.DataFrame(sorted(rows, key=lambda row: -row["version"]))

    def promote(
        self, version: int, *, reason: str = "", **options: Unpack[PromotionOptions]
    ) -> "PromotionResult":
        """Make a version the champion, and for a policy its reward model with it.

        All its gates must have passed, its bytes must be unchanged, and it must have beaten the
        present champion. A candidate (NAME-candidate) is copied to NAME first. reason is kept in
        the ledger. Raises BadInput for a version that does not exist, and PromotionRefused, with
        why; then nothing has changed.
        """
        registry, request = self._request(version, reason, options)
        from tasks.promotion import candidates, promotion

        registry, number = candidates.promoted_copy(registry, request.kind, request.version)
        return promotion.promote(registry, replace(request, version=number))

    def rehearse_promotion(
        self, version: int, *, reason: str = "", **options: Unpack[PromotionOptions]
    ) -> "Rehearsal":
        """Return what `promote` would do, as `rlhf promote --dry-run` does; nothing is written.

        The result has `allowed`, `reason`, and `steps`: aliases, gate records, contest, approval,
        each with what was found. The smoke test of the moved alias is left out.
        """
        registry, request = self._request(version, reason, options)
        from tasks.promotion import rehearsal

        return rehearsal.rehearse_promotion(registry, request)

    def rehearse_rollback(self, *, reason: str = "", adopt: bool = False) -> "Rehearsal":
        """Return what `rollback` would do, as `rlhf rollback --dry-run` does; write nothing."""
        request = checked_request(reason, adopt)
        registry, kind = self._opened()
        from tasks.promotion import promotion, rehearsal

        asked = promotion.PromotionRequest(kind=kind, **request)
        return rehearsal.rehearse_rollback(registry, asked)

    def rollback(self, *, reason: str = "", adopt: bool = False) -> "PromotionResult":
        """Make the previous champion the champion again, after the same checks but the contest.

        A second rollback returns to the champion before that one. Raises as `promote` does.
        """
        request = checked_request(reason, adopt)
        registry, kind = self._opened()
        from tasks.promotion import promotion

        return promotion.rollback(registry, promotion.PromotionRequest(kind=kind, **request))

    def history(self) -> "History":
        """Return every attempt to change the champion: `entries`, `champion` and `problems`.

        Attempts that were killed are completed or undone first. Raises BadInput, with the names
        that are there, when no model has that name.
        """
        registry, _ = self._opened(must_exist=False)
        from tasks.promotion import promotion

        found = promotion.history(registry)
        if not found.entries:
            self._require_model(registry.name)
        return found

    def _request(
        self, version: int, reason: str, options: PromotionOptions
    ) -> "tuple[RegistryAliases, PromotionRequest]":
        """Return the registry and the checked request. Raises BadInput."""
        require_known(options, PromotionOptions)
        checked, approval = _checked(reason, options), approval_of(options)
        registry, kind = self._opened()
        _check_policy_options(kind, options, registry.client.tracking_uri)
        from tasks.promotion.promotion import PromotionRequest

        expected = options.get("expect_current")
        expects = None if expected is None else str(expected or "")
        return registry, PromotionRequest(
            kind=kind, version=str(version), expects=expects, **checked, **approval
        )

    def _opened(self, *, must_exist: bool = True) -> "tuple[RegistryAliases, ModelKind]":
        begin()
        from tasks.promotion import aliases

        return aliases.open_registry(self.name, must_exist=must_exist)

    @staticmethod
    def _require_model(name: str) -> None:
        """Raise BadInput if neither model of that name is registered.

        A reward model alone is enough: the policy follows later.
        """
        from tasks.promotion.aliases import open_registry

        try:
            open_registry(f"{name}-reward")
        except BadInput:
            open_registry(name)


def registry(name: str) -> ModelRegistry:
    """Return the registered models of a name: registry.name of a recipe, e.g. "quickstart".

    With -reward at its end the reward model is meant, with -candidate what waits for a promoter.
    """
    require_text("the registry's name", name)
    return ModelRegistry(name)


def _checked(reason: str, options: PromotionOptions) -> CheckedRequest:
    return checked_request(reason, options.get("adopt", False), options.get("override_contest", ""))


def _check_policy_options(kind: str, options: PromotionOptions, uri: str) -> None:
    """Raise BadInput for what is said of a reward model, and for a typed name among accounts."""
    approved_by = options.get("approved_by")
    if kind == "reward" and options.get("override_contest"):
        raise BadInput("--override-contest is for policies; a reward model fights no contest.")
    if kind == "reward" and approved_by:
        raise BadInput(
            "--approved-by is for policies; a reward model is promoted without approval."
        )
    if approved_by:
        _refuse_typed_name(uri)


def _refuse_typed_name(uri: str) -> None:
    """Raise BadInput where MLflow's server has accounts, which say who approves."""
    from tasks.tracking.account import account_at

    if account_at(uri).is_authenticated:
        raise BadInput(
            "--approved-by is not taken: MLflow's server has accounts, and an approver's account"
            " approves by: rlhf approve RUN (an admin names approvers: rlhf access setup NAME"
            " --approver ACCOUNT)."
        )
