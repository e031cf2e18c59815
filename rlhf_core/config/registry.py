"""The registry section: the registered models, and what a promotion needs beside passed gates."""

from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from rlhf_core.config.contest import Contest
from rlhf_core.config.fields import NAME_LENGTH, Config, Share


class Approval(Config):
    """The approval by a person before a policy may be promoted.

    While the pipeline waits, no stage process runs and no GPU is held.
    """

    # Prefect 3.7 checks a deployment's parameters against this schema without every key 'required',
    # this field among them
    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})
    required: bool = Field(
        False,
        description="Ask a person after the last gate, on Prefect's page or by `rlhf approve RUN`.",
    )
    timeout_hours: Annotated[float, Field(gt=0, le=720)] = Field(
        72.0, description="Hours to wait. After them the policy is refused."
    )


class Registry(Config):
    """The registered models, and what a promotion needs beside passed gates."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        max_length=NAME_LENGTH,
        description="The models are registered as '<name>-policy' and '<name>-reward'.",
    )
    contest: Contest = Field(Contest(), description="Contest with the present champion.")
    min_win_rate_vs_champion: Share | None = Field(
        None,
        description=(
            "Earlier name of the contest's threshold: 0.6 is contest.min_effect = 0.1. None:"
            " contest.min_effect counts."
        ),
    )
    approval: Approval = Field(Approval(), description="Approval by a person.")

    @property
    def contest_in_force(self) -> Contest:
        """The contest, with the threshold of the earlier key where that is given."""
        if self.min_win_rate_vs_champion is None:
            return self.contest
        effect = self.min_win_rate_vs_champion - 0.5
        return self.contest.model_copy(update={"min_effect": round(effect, 12)})

    @model_validator(mode="after")
    def _one_threshold(self) -> "Registry":
        given = self.min_win_rate_vs_champion
        if given is None:
            return self
        if given == 1:
            raise ValueError(
                "min_win_rate_vs_champion is 1, and no candidate can win more; expected less"
            )
        if "min_effect" in self.contest.model_fields_set:
            raise ValueError(
                f"min_win_rate_vs_champion {given:g} is the earlier name of contest.min_effect"
                f" {given - 0.5:g}, and contest.min_effect is {self.contest.min_effect:g} here;"
                " remove min_win_rate_vs_champion"
            )
        return self
