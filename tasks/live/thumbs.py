"""People's thumbs on live replies as rows of feedback: prompt, completion, label."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rlhf_core.data.splits import short_key
from rlhf_core.data.transcripts import RejectedRow
from rlhf_core.data.verdicts import thumb
from rlhf_core.errors import BadInput
from tasks.live.people import PersonsFeedback
from tasks.live.replies import LiveReply

NAME = "thumb"  # of the feedback, unless another is asked for


@dataclass(frozen=True)
class WantedThumbs:
    """The feedback to read: its name, and when it was given, `until` excluded."""

    name: str = NAME
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, feedback: PersonsFeedback) -> bool:
        """Return True for feedback of this name and time."""
        given = datetime.fromtimestamp(feedback.time_ms / 1000, UTC)
        return (
            feedback.name == self.name
            and (self.since is None or given >= self.since)
            and (self.until is None or given < self.until)
        )


@dataclass
class ThumbRows:
    """Rows of feedback, and what was read for them.

    left_out: replies and thumbs that are no row, by reason. others: names of other feedback.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    replies: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    others: set[str] = field(default_factory=set)

    def require_some(self, name: str, wanted: WantedThumbs) -> None:
        """Raise BadInput where there is no row, saying why and what to do."""
        if self.rows:
            return
        if not self.replies:
            raise BadInput(
                f"no reply of {name} is kept in MLflow; expected replies with people's feedback."
                f" Keep some: rlhf live {name} --log SHARE."
            )
        said = "".join(f"; {count} because {why}" for why, count in self.left_out.most_common())
        if self.others:
            said += f"; other feedback is named {', '.join(sorted(self.others))}"
        raise BadInput(
            f"none of {self.replies} kept replies of {name} has a label by feedback"
            f" {wanted.name!r}{said}; expected mlflow.log_feedback(trace_id=..., name='thumb',"
            " value=True) on their traces. Name other feedback with --name, or another time with"
            " --since."
        )


def thumb_rows(replies: Iterable[LiveReply], wanted: WantedThumbs) -> ThumbRows:
    """Return a row for each reply on whose thumbs a majority agrees, the oldest reply first.

    Equal replies to one prompt are one. Of an author's several thumbs on it the last one counts;
    those without an author count each.
    """
    found, groups = ThumbRows(), dict[tuple[str, str], list[LiveReply]]()
    for reply in replies:
        found.replies += 1
        found.others |= {each.name for each in reply.feedback} - {wanted.name}
        if not any(map(wanted.takes, reply.feedback)):
            continue
        if reason := reply.unusable:
            found.left_out[reason] += 1
            continue
        groups.setdefault((short_key(reply.messages), reply.reply), []).append(reply)
    for group in groups.values():
        if row := _row(group, wanted, found.left_out):
            found.rows.append(row)
    found.rows.sort(key=lambda row: (row["timestamp"], row["trace_id"]))
    return found


def _row(
    group: list[LiveReply], wanted: WantedThumbs, left_out: Counter[str]
) -> dict[str, Any] | None:
    """Return the row of equal replies; None, with the reason counted, where it has no label."""
    given = [each for reply in group for each in reply.feedback if wanted.takes(each)]
    labels = thumbs_of(given, left_out)
    up, down = labels.count(True), labels.count(False)
    if up == down:
        if labels:
            left_out["as many thumbs are up as down"] += 1
        return None
    newest = max(group, key=lambda reply: (reply.time_ms, reply.trace_id))
    return {
        "prompt": newest.messages,
        "completion": newest.reply,
        "label": up > down,
        "thumbs_up": up,
        "thumbs_down": down,
        "version": newest.version,
        "trace_id": newest.trace_id,
        "timestamp": datetime.fromtimestamp(newest.time_ms / 1000, UTC).isoformat(),
    }


def thumbs_of(given: Iterable[PersonsFeedback], left_out: Counter[str]) -> list[bool]:
    """Return the thumbs that count: the last one of each author, and each without an author.

    left_out: gets the number of values that are no thumb.
    """
    labels: dict[object, bool] = {}
    for number, each in enumerate(sorted(given, key=lambda one: one.time_ms)):
        try:
            labels[each.author or number] = thumb(each.value)
        except RejectedRow:
            left_out["a value is no thumb (true or false, 1 or 0, up or down)"] += 1
    return list(labels.values())
