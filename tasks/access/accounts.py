"""The accounts of one registry name on MLflow's server, by their duties."""

import re
from dataclasses import dataclass

from rlhf_core.errors import BadInput
from tasks.access.roles import Role

ROLES: tuple[Role, ...] = ("pipeline", "promoter", "approver")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")


@dataclass(frozen=True)
class Accounts:
    """The accounts of one registry name, by their duties."""

    name: str
    pipeline: str
    promoters: tuple[str, ...]
    approvers: tuple[str, ...]

    def __post_init__(self) -> None:
        names = (self.pipeline, *self.promoters, *self.approvers)
        if wrong := [name for name in names if not _NAME.fullmatch(name)]:
            raise BadInput(
                f"{wrong[0]!r} is no name of an account; expected letters, digits and . _ @ + -,"
                " e.g. pat@example.org, beginning with a letter or digit."
            )
        if self.pipeline.lower() in map(str.lower, self.promoters):
            raise BadInput(
                f"{self.pipeline} is to be both the pipeline's account and a promoter; expected"
                " different accounts, because who trained does not promote."
            )
        spellings = {name.lower(): name for name in names}
        if other := next((name for name in names if spellings[name.lower()] != name), None):
            raise BadInput(
                f"{other} and {spellings[other.lower()]} are one name with other capitals; expected"
                " one spelling: MLflow makes two accounts of them, of which each may approve what"
                " the other may."
            )

    def of(self, role: Role) -> tuple[str, ...]:
        """Return the accounts of a role."""
        if role == "pipeline":
            return (self.pipeline,)
        return self.promoters if role == "promoter" else self.approvers
