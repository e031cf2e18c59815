"""`rlhf feedback export`: people's thumbs on live replies as a file of feedback."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import AsJson
from flows.cli.output import print_json
from flows.settings import quiet_libraries

LiveModel = Annotated[
    str, typer.Argument(metavar="NAME", help="registry.name of a recipe that was served live")
]
FeedbackFile = Annotated[
    Path, typer.Option("--out", metavar="FILE", help="New .jsonl file, for data.feedback")
]
FeedbackName = Annotated[str, typer.Option("--name", help="Name of the feedback in MLflow")]
GivenSince = Annotated[datetime | None, typer.Option(help="Thumbs given from then on, UTC")]
GivenUntil = Annotated[datetime | None, typer.Option(help="Thumbs given before then, UTC")]


def feedback_export(
    name: LiveModel,
    out: FeedbackFile,
    feedback: FeedbackName = "thumb",
    since: GivenSince = None,
    until: GivenUntil = None,
    as_json: AsJson = False,
) -> None:
    """Write people's thumbs on the kept live replies as rows of feedback.

    A row has the prompt, the reply and the label of most thumbs, for data.feedback of a recipe
    (align = "kto", or a reward model). Replies with as many thumbs up as down are left out and
    counted. The file holds what your users wrote; where its rows come from is beside it.
    """
    from datetime import UTC

    from tasks.live.feedback_file import export_thumbs, provenance_file
    from tasks.live.thumbs import WantedThumbs
    from tasks.records.workspace import Workspace

    quiet_libraries()
    times = (time.replace(tzinfo=UTC) if time else None for time in (since, until))
    found = export_thumbs(name, out, WantedThumbs(feedback, *times), Workspace.here())
    up = sum(row["label"] for row in found.rows)
    counts = {"rows": len(found.rows), "up": up, "down": len(found.rows) - up}
    if as_json:
        print_json({"out": str(out)} | counts | {"left_out": dict(found.left_out)})
        return
    for reason, count in found.left_out.most_common():
        print(f"left out: {count}, because {reason}")
    print(
        f"{counts['rows']} rows: {out}, {up} up and {counts['down']} down, of {found.replies} kept"
        f" replies; provenance: {provenance_file(out)}"
    )
