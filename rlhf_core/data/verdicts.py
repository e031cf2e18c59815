"""The verdicts beside a row: votes, strength and scores of a pair, the label of one reply."""

import math

from rlhf_core.data.transcripts import RejectedRow

_CHOSEN = {1: 1, 0: 0, "chosen": 1, "rejected": 0, "1": 1, "0": 0}
# names of the columns that hold a score of each answer, in the order chosen, rejected
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
)
_THUMBS = {"true": True, "false": False, "1": True, "0": False, "up": True, "down": False}


def votes(row: dict) -> tuple[int | None, int | None]:
    """Return the votes for and against the chosen answer; (None, None) without votes.

    Raises RejectedRow if they are no votes.
    """
    for column in ("votes", "labels"):
        if isinstance(values := row.get(column), list) and values:
            try:
                chosen = sum(_CHOSEN[value] for value in values)
            except (KeyError, TypeError):
                raise RejectedRow(
                    "schema",
                    f"{column} is {values!r:.60}; expected a list of 0/1 or chosen/rejected",
                ) from None
            return chosen, len(values) - chosen
    counted = [_count(row.get(column), column) for column in ("votes_for", "votes_against")]
    if (counted[0] is None) != (counted[1] is None):
        raise RejectedRow(
            "schema",
            f"votes_for is {counted[0]}, votes_against {counted[1]}; expected both or neither",
        )
    return counted[0], counted[1]


def named_votes(row: dict) -> list[tuple[str, int]]:
    """Return annotator and vote (1 for the chosen answer, else 0) of each vote that has a name.

    `annotators` names those of `votes` or `labels`, in their order; `annotator` names the one who
    labelled the row. Raises RejectedRow for another number of names than of votes.
    """
    names = row.get("annotators")
    if isinstance(names, list) and names:
        given: list = next(
            (row[c] for c in ("votes", "labels") if isinstance(row.get(c), list) and row[c]), []
        )
        if len(names) != len(given):
            raise RejectedRow(
                "schema",
                f"annotators has {len(names)} names for {len(given)} votes; expected a name for"
                " each entry of votes",
            )
        return [(str(name), _CHOSEN[vote]) for name, vote in zip(names, given, strict=True)]
    name = row.get("annotator")
    return [] if name is None or not str(name).strip() else [(str(name), 1)]


def strength(row: dict) -> float | None:
    """Return by how much the chosen answer is better, in the annotators' own unit.

    Anything but a number of 0 or more counts as unknown: None.
    """
    for column in ("strength", "margin"):
        value = number(row.get(column))
        if value is not None and math.isfinite(value) and value >= 0:
            return value
    return None


def score_contradiction(row: dict) -> str | None:
    """Return why a row's own numbers prefer the rejected answer; None if they do not.

    They are scores, a margin, or votes of which most are against the chosen answer.
    """
    for chosen, rejected in SCORES:
        high, low = number(row.get(chosen)), number(row.get(rejected))
        if high is not None and low is not None and high < low:
            return f"{chosen} {high:g} is less than {rejected} {low:g}"
    if row.get("human_ref_A") is None and number(row.get("labels")) == 0:
        return "labels is 0: the second answer is the better one"
    for column in ("strength", "margin"):
        value = number(row.get(column))
        if value is not None and value < 0:
            return f"{column} {value:g} is negative: the rejected answer is the better one"
    in_favour, against = votes(row)
    if in_favour is not None and against is not None and against > in_favour:
        return f"{against} of {in_favour + against} votes are against the chosen answer"
    return None


def score_tie(row: dict) -> str | None:
    """Return that a row's scores of both answers are equal; None if they are not."""
    for chosen, rejected in SCORES:
        value = number(row.get(chosen))
        if value is not None and value == number(row.get(rejected)):
            return f"{chosen} and {rejected} are both {value:g}"
    return None


def verdict(row: dict) -> bool | None:
    """Return the verdict in a label column (KTO): True for a good answer.

    None if the column holds nothing that `thumb` takes, as a class's name.
    """
    try:
        return thumb(row.get("label"))
    except RejectedRow:
        return None


def thumb(label: object) -> bool:
    """Return a reply's label: True for thumbs up, False for thumbs down.

    Taken: true and false, the numbers 1 and 0, and the texts true, false, 1, 0, up and down in any
    case. Raises RejectedRow for anything else: a rating, or -1, may mean many things.
    """
    if isinstance(label, bool):
        return label
    if isinstance(label, int | float) and label in (0, 1):
        return bool(label)
    found = _THUMBS.get(label.strip().lower()) if isinstance(label, str) else None
    if found is None:
        raise RejectedRow(
            "schema",
            f"label is {'null' if label is None else f'{label!r:.40}'}; expected true or false, 1"
            " or 0, or 'up' or 'down'",
        )
    return found


def _count(value: object, column: str) -> int | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    count = number(value)
    if count is None or not count.is_integer() or count < 0:
        raise RejectedRow(
            "schema", f"{column} is {value!r:.40}; expected a whole number, 0 or more"
        )
    return int(count)


def number(value: object) -> float | None:
    """Return the number in a value of JSON, CSV or Arrow; None for booleans and anything else."""
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # anything else raises TypeError
    except (TypeError, ValueError):
        return None


def annotator_agreement(record: dict) -> float | None:
    """Return the share of a pair's votes that agree with the majority; None without votes."""
    counted = [record.get("votes_for") or 0, record.get("votes_against") or 0]
    return max(counted) / sum(counted) if sum(counted) else None
