"""The record of the search for a stage's held-out prompts among the training data of its models."""

from pydantic import BaseModel

from rlhf_core.stage_catalogue import UNSEEN

SHOWN_REASONS = 3  # in a sentence that is also a tag in MLflow


class HeldoutCheck(BaseModel):
    """The result of one search. Models are named by the inputs of the stage.

    prompts, left_out: different prompts by held-out split, before the search, and those left out.
    A split with the ending UNSEEN is that of the reward model before training.
    leaked: prompts by model, of all held-out splits together. leaked_by_split: prompts by split and
    model; records of earlier releases have none. unknown: why, by model.
    known_in_part: the models of `unknown` of which some training split was searched.
    """

    prompts: dict[str, int]
    left_out: dict[str, int] = {}
    leaked: dict[str, int] = {}
    leaked_by_split: dict[str, dict[str, int]] = {}
    unknown: dict[str, str] = {}
    known: list[str] = []
    known_in_part: list[str] = []

    @property
    def is_clean(self) -> bool:
        """True if the training data of every model are known, and no held-out prompt is in them."""
        return not self.left_out and not self.unknown

    @property
    def sentence(self) -> str:
        """The finding in words."""
        parts = []
        for split, count in self.left_out.items():
            leaked = self.leaked_by_split.get(split, self.leaked)
            owners = ", ".join(f"{name} ({n})" for name, n in sorted(leaked.items()))
            where = split.removesuffix(UNSEEN)
            measured = "" if where == split else " where the reward model before is measured"
            parts.append(
                f"{count} of {self.prompts[split]} prompts of {where} are left out{measured}:"
                f" training prompts of {owners}"
            )
        if self.known and not self.left_out:
            parts.append(f"no held-out prompt is a training prompt of {', '.join(self.known)}")
        parts += [self._unsearched(name, why) for name, why in self.unknown.items()]
        return "; ".join(parts)

    def _unsearched(self, name: str, why: str) -> str:
        if name in self.known_in_part:
            return (
                f"the training data of {name} are known in part only ({why}), so the rest was not"
                " searched"
            )
        return f"the training data of {name} are unknown ({why}), so nothing was searched for it"


def brief_reasons(reasons: list[str]) -> str:
    """Return different reasons as one text, the first few of many."""
    different = list(dict.fromkeys(reasons))
    more = len(different) - SHOWN_REASONS
    return ", ".join(different[:SHOWN_REASONS]) + (f" and {more} more" if more > 0 else "")
