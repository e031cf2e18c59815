"""Labels from people: campaigns in MLflow's review queues, and files of votes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, get_args

from flows.api.arguments import path_text, require_choice, require_known, require_text, run_name
from flows.api.run_view import Run
from flows.api.session import begin
from rlhf_core.errors import BadInput

if TYPE_CHECKING:
    from pandas import DataFrame

    from rlhf_core.labels.candidates import PairSource
    from rlhf_core.labels.outcome import LabelledData, Weighting
    from rlhf_core.labels.picking import Pick
    from tasks.labels.campaign import CampaignFolder
    from tasks.labels.progress import CampaignStatus
    from tasks.records.workspace import Workspace

FilePath = str | PathLike[str]


class LabelOptions(TypedDict, total=False):
    """The options of a labelling campaign, as those of `rlhf label open`.

    sources: where pairs come from (default: onpolicy). pairs: how many (default: 200). overlap: the
    share of them that three people label (default: 0.25). pick: random, uncertain, disagreement or
    diverse. gold: a file of pairs with a known answer. seed: of sampling, picking and sides.
    page_characters: how much MLflow's page shows of a pair (default: 1000).
    """

    sources: "Sequence[PairSource]"
    pairs: int
    overlap: float
    pick: "Pick"
    gold: FilePath | None
    seed: int
    page_characters: int


class VoteOptions(TypedDict, total=False):
    """The way in which votes become comparisons.

    min_alpha: refuse where the lower end of alpha's 95% interval is below it. weighting: none or
    dawid-skene. real_names: keep the annotators' names in the data, not their pseudonyms.
    """

    min_alpha: float | None
    weighting: "Weighting"
    real_names: bool


@dataclass(frozen=True)
class LabelCampaign:
    """A labelling campaign of this workspace, whose annotators answer on MLflow's pages."""

    name: str

    @property
    def pages(self) -> dict[str, str]:
        """The address of each annotator's queue."""
        from tasks.labels.progress import pages

        return pages(self._folder()[0].load())

    @property
    def num_pairs(self) -> int:
        """The number of pairs, each of which one person or more is asked about."""
        return len(self._folder()[0].pairs())

    def queue(self, annotator: str) -> "DataFrame":
        """Return what an annotator is shown, as a pandas frame with a row per pair.

        Its columns: queue_id and trace_id in MLflow, prompt, reply_1, reply_2. Raises BadInput for
        somebody who is no annotator of the campaign.
        """
        import pandas

        from tasks.labels.pages import ShownPair

        folder, _ = self._folder()
        campaign = folder.load()
        if annotator not in campaign.queues:
            known = ", ".join(campaign.annotators)
            raise BadInput(f"{annotator!r} has no queue in {self.name}; expected one of {known}.")
        pairs = {pair.pair_id: pair for pair in folder.pairs()}
        rows = []
        for one in campaign.of(annotator):
            shown = ShownPair.of(pairs[one.pair_id], swapped=one.swapped)
            rows.append(
                {
                    "queue_id": campaign.queues[annotator].queue_id,
                    "trace_id": campaign.trace_id(one),
                    "prompt": shown.prompt,
                    "reply_1": shown.replies[0],
                    "reply_2": shown.replies[1],
                }
            )
        return pandas.DataFrame(rows)

    def status(self) -> "CampaignStatus":
        """Return how far it is, as `rlhf label status` shows it: `states`, `report`, `refused`."""
        from tasks.labels.progress import status

        return status(*self._folder())

    def close(self, out: FilePath, **options: Unpack[VoteOptions]) -> dict[str, Any]:
        """Turn the votes into a new file of comparisons, and end the queues.

        Return what was written: out, comparisons, apart (pairs without a preference), votes and
        report. Raises BadInput for a file that exists and for a campaign that is closed,
        GateRefused for annotators who agree too little; nothing is written then.
        """
        target = Path(path_text("out", out))
        from tasks.labels.closing import CloseOptions, close

        folder, workspace = self._folder()
        return close(folder, CloseOptions(out=target, **options), workspace)

    def _folder(self) -> "tuple[CampaignFolder, Workspace]":
        workspace = begin()
        from tasks.labels.campaign import CampaignFolder

        return CampaignFolder(workspace, self.name), workspace


def open_campaign(
    name: str, run: Run | str, annotators: Sequence[str], **options: Unpack[LabelOptions]
) -> LabelCampaign:
    """Have people compare replies in MLflow, as `rlhf label open` does.

    name: of the campaign, e.g. "week-48". run: whose models make and score the pairs, from training
    prompts only. annotators: each gets a review queue in MLflow. Called again for a name whose
    opening was stopped, it completes that one. Raises BadInput for a name that is taken.
    """
    require_text("the campaign's name", name)
    source = run_name("the run", run)
    require_known(options, LabelOptions)
    if isinstance(annotators, str) or not isinstance(annotators, Sequence):
        raise BadInput(f"annotators is {annotators!r}; expected a list of names, as ['ann'].")
    workspace = begin(writing=True)
    from rlhf_core.labels.assignment import require_annotators
    from rlhf_core.labels.picking import Pick as Picks
    from tasks.analysis.gate_report import find_run
    from tasks.labels.campaign import CampaignFolder
    from tasks.labels.opening import OpenOptions
    from tasks.labels.opening import open_campaign as opened

    require_choice("pick", options.get("pick", "random"), get_args(Picks))
    folder = CampaignFolder(workspace, name)
    require_annotators(annotators)
    gold = options.get("gold")
    asked = OpenOptions(
        sources=options.get("sources", ("onpolicy",)),
        total=options.get("pairs", 200),
        annotators=list(annotators),
        overlap=options.get("overlap", 0.25),
        how=options.get("pick", "random"),
        seed=options.get("seed", 1),
        gold=None if gold is None else Path(gold),
        page_characters=options.get("page_characters", 1000),
    )
    record = find_run(workspace, source)
    opened(folder, record, asked, workspace)
    return LabelCampaign(name)


def campaign(name: str) -> LabelCampaign:
    """Return a labelling campaign of this workspace. Raises BadInput for an unknown name."""
    require_text("the campaign's name", name)
    found = LabelCampaign(name)
    found._folder()[0].load()  # an unknown name is refused here
    return found


def import_labels(
    file: FilePath,
    out: FilePath,
    columns: Mapping[str, str] | None = None,
    **options: Unpack[VoteOptions],
) -> "LabelledData":
    """Turn votes in a file into a new file of comparisons, as `rlhf label import` does.

    file: Label Studio's JSON, or .csv or .jsonl with a vote per row. columns: the file's names of
    columns, e.g. {"reply_a": "answer1"}. The result has `comparisons`, `apart`, `votes` and
    `report`. Raises BadInput for a bad row, with its line, and for an `out` that exists.
    """
    source, target = path_text("the file", file), path_text("out", out)
    workspace = begin()
    from tasks.labels.importing import ImportOptions, import_votes

    asked = ImportOptions(out=Path(target), columns=columns or {}, **options)
    return import_votes(Path(source), asked, workspace)
