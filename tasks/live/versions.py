"""The versions to serve: the champion by its alias, a candidate, and their verified files."""

from dataclasses import dataclass
from pathlib import Path

from rlhf_core.errors import BadInput, RLHFError
from rlhf_core.live.routing import WantedVersions
from tasks.execution.stage_calls import ask
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.champions import AliasState
from tasks.promotion.eligibility import check_version, state_at_promotion
from tasks.registry import versions
from tasks.registry.fetching import fetch
from tasks.registry.versions import CHAMPION
from tasks.tracking.pages import model_versions


@dataclass(frozen=True)
class ServedVersion:
    """A version with its files on this machine. model: the name under which it is served."""

    version: str
    digest: str
    model: str
    folder: Path


def wanted_versions(
    registry: RegistryAliases, candidate: str = "", canary: int = 0
) -> WantedVersions:
    """Return the versions to serve now: a candidate that has become champion is no canary.

    Raises BadInput where there is no champion.
    """
    model = registry.model("policy")
    champion = versions.aliases(registry.client, model).get(CHAMPION)
    if champion is None:
        raise BadInput(
            f"{model} has no champion, and the champion is what is served; expected the alias"
            f" {CHAMPION} on one of its versions. Run its recipe, or make one champion: rlhf"
            f" promote {registry.name} VERSION."
        )
    if not canary or not candidate or candidate == champion:
        return WantedVersions(champion)
    return WantedVersions(champion, candidate, canary)


def require_candidate(registry: RegistryAliases, named: str, champion: str) -> str:
    """Return the version of a canary: the one named by number or alias, else the newest eligible.

    Eligible is a version whose gates all passed, for these very bytes, and which has never been
    champion; it need not have beaten the champion. Raises BadInput where there is none, and
    PromotionRefused for a named version whose gates have not passed.
    """
    model = registry.model("policy")
    if named:
        number = named
        if not named.isdigit():
            number = versions.aliases(registry.client, model).get(named, "")
        if not number:
            raise BadInput(f"{model} has no alias {named}; expected one, or a version's number.")
        registry.require_version("policy", number)
        if number == champion:
            raise BadInput(
                f"version {number} of {model} is the champion; expected another version as canary."
            )
        _require_gates(registry, number)
        return number
    been = {
        entry.plan.state.version("policy")
        for entry in registry.ledger.entries()
        if entry.plan and entry.outcome == "done"
    }
    found = model_versions(registry.client, f"name = '{model}'")
    numbers = sorted(int(version.version) for version in found)
    reasons = []
    for number in (str(each) for each in reversed(numbers)):
        if number == champion or number in been:
            continue
        try:
            _require_gates(registry, number)
            return number
        except RLHFError as error:
            reasons.append(f"Version {number}: {error}")
    raise BadInput(
        " ".join(
            [
                f"{model} has no candidate: every version is or was champion, or has not passed.",
                *reasons,
                "Run its recipe, or name a version: --candidate VERSION.",
            ]
        )
    )


def _require_gates(registry: RegistryAliases, number: str) -> None:
    """Raise PromotionRefused unless the gates of a version passed, for its bytes as served now."""
    state = AliasState(policy=registry.as_champion("policy", number))
    check_version(
        registry, state_at_promotion(registry, registry.ledger.entries(), state), "policy"
    )


def served_name(registry: RegistryAliases, version: str) -> str:
    """Return the name under which a version is served, e.g. 'quickstart-policy-3'."""
    return f"{registry.model('policy')}-{version}"


def fetch_served(registry: RegistryAliases, version: str) -> ServedVersion:
    """Return a version's files on this machine, which have the digest of its tag.

    Raises BadInput for other bytes, and for a model that vLLM cannot serve.
    """
    found = registry.require_version("policy", version)
    weights = fetch(registry.workspace, found)
    ask("rlhf_core.live.serving:require_servable", weights.path)
    return ServedVersion(version, weights.digest, served_name(registry, version), weights.path)
