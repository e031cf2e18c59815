"""Close a campaign: its votes become data, once, whole or not at all.

The files are written to labels/NAME/closing first, and one rename decides. A close that was killed
before it has done nothing; one that was killed after it is completed by the next close.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_core.errors import BadInput
from rlhf_core.labels.outcome import Weighting, labelled_data
from rlhf_core.rundir import write_atomically
from tasks.labels.answers import Answers
from tasks.labels.campaign import Campaign, CampaignFolder
from tasks.labels.files import names_in_data, publish, require_alpha, require_out, written_files
from tasks.labels.opening import campaign_and_answers
from tasks.labels.queues import LabelQueues
from tasks.records.workspace import Workspace
from tasks.tracking.address import redacted

DECISION = "close.json"


@dataclass(frozen=True)
class CloseOptions:
    """The options by which a campaign is closed.

    min_alpha: the least lower end of alpha's interval. real_names: annotators keep their names.
    """

    out: Path
    min_alpha: float | None = None
    weighting: Weighting = "none"
    real_names: bool = False


def close(folder: CampaignFolder, options: CloseOptions, workspace: Workspace) -> dict:
    """Write the campaign's comparisons, end its queues, and return what was written and where.

    Of two closes at once one waits, and finds the campaign closed. Raises BadInput for a campaign
    that is closed or has no label, GateRefused for annotators who agree too little; nothing is
    written then.
    """
    folder.load()  # a name that no campaign has is refused before its folder is made
    with folder.locked():
        folder.require_not_closed()
        if not folder.closing.exists():
            require_out(options.out)
            _decide(folder, options, workspace)
        return _complete(folder, workspace)


def _decide(folder: CampaignFolder, options: CloseOptions, workspace: Workspace) -> None:
    """Write the files of the close to the folder `closing`, which appears whole."""
    campaign, answers = campaign_and_answers(folder, workspace)
    names = names_in_data(workspace, campaign.annotators, real=options.real_names)
    data = labelled_data(
        list(answers.pairs.values()), answers.votes, names, campaign.name, options.weighting
    )
    require_alpha(campaign.name, data.report.alpha, options.min_alpha)
    known = provenance(campaign, answers, names) | {"weighting": options.weighting}
    files = written_files(data, known)
    decision = {
        "out": str(options.out.resolve()),
        "comparisons": len(data.comparisons),
        "apart": len(data.apart),
        "votes": len(data.votes),
        "report": data.report.as_json(),
    }
    new = folder.path / "closing.new"
    shutil.rmtree(new, ignore_errors=True)  # of a close that was killed
    new.mkdir()
    for name, text in files.items():
        write_atomically(new / (name or "comparisons.jsonl"), text)
    write_atomically(new / DECISION, json.dumps(decision, indent=1))
    os.rename(new, folder.closing)


def _complete(folder: CampaignFolder, workspace: Workspace) -> dict:
    """Publish what was decided, and end the queues. To do it twice changes nothing.

    Raises BadInput where another file has taken the place of the comparisons.
    """
    decision = json.loads((folder.closing / DECISION).read_text(encoding="utf-8"))
    out = Path(decision["out"])
    names = ("apart.jsonl", "votes.jsonl", "report.json", "provenance.json", "comparisons.jsonl")
    texts = {name: (folder.closing / name).read_text(encoding="utf-8") for name in names}
    comparisons = texts.pop("comparisons.jsonl")
    if out.exists() and out.read_text(encoding="utf-8") != comparisons:
        raise BadInput(
            f"{folder.name} was closed into {out}, which holds something else now; expected no such"
            " file. Move it away, and close again: the labels are kept."
        )
    publish(texts | {"": comparisons}, out)
    campaign = folder.load()
    queues = LabelQueues(campaign, workspace)
    for queue in campaign.queues.values():
        queues.remove_pending(queue)
    write_atomically(folder.path / "closed.json", json.dumps(decision, indent=1))
    return decision


def provenance(campaign: Campaign, answers: Answers, names: dict[str, str]) -> dict[str, Any]:
    """Return where the labels come from: run and models, queues, and who says who voted."""
    return {
        "campaign": campaign.name,
        "campaign_id": campaign.id,
        "opened": campaign.created,
        "run": campaign.run,
        "sources": campaign.sources,
        "pick": campaign.pick,
        "seed": campaign.seed,
        "overlap": campaign.overlap,
        "tracking_uri": redacted(campaign.tracking_uri),
        "experiment_id": campaign.experiment_id,
        # without whose queue is which: on the server a queue has its annotator's name
        "queues": sorted(queue.queue_id for queue in campaign.queues.values()),
        # account: MLflow's server knew by password who answered; queue: whoever opened the queue
        "authorship": "account" if campaign.accounts else "queue",
        "annotators": sorted(names.values()),
        "refused": len(answers.refused),
    }
