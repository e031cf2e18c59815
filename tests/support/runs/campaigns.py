"""A labelling campaign in a real MLflow store, and people who answer in it."""

from dataclasses import dataclass

from rlhf_core.labels.votes import Choice, LabelPair, pair_id_of
from tasks.labels.campaign import Campaign, CampaignFolder
from tasks.labels.opening import OpenOptions, make_in_mlflow, write_campaign
from tasks.labels.pages import ANSWERS, BETTER, STRENGTH
from tasks.records.workspace import Workspace


def made_pairs(count: int) -> list[LabelPair]:
    pairs = []
    for number in range(count):
        prompt = [{"role": "user", "content": f"How is {number}?"}]
        replies = (f"So {number}.", f"Thus {number}.")
        pairs.append(LabelPair(pair_id_of(prompt, *replies), prompt, *replies, "onpolicy"))
    return pairs


@dataclass
class OpenedCampaign:
    """A campaign, and what its annotators do on MLflow's page."""

    folder: CampaignFolder
    workspace: Workspace

    @property
    def campaign(self) -> Campaign:
        return self.folder.load()

    def log(
        self, trace_id: str, question: str, value: str, author: str, rationale: str | None = None
    ) -> None:
        import mlflow
        from mlflow.entities import AssessmentSource

        source = AssessmentSource("HUMAN", author)
        mlflow.log_feedback(
            trace_id=trace_id, name=question, value=value, source=source, rationale=rationale
        )

    def finish(self, annotator: str, trace_id: str, status: str = "complete", by: str = "") -> None:
        from mlflow.genai.review_queues import set_review_queue_item_status

        set_review_queue_item_status(
            self.campaign.queues[annotator].queue_id,
            item_id=trace_id,
            status=status,
            completed_by=None if status == "pending" else by or "default",
        )

    def answer(
        self, annotator: str, choice: Choice = "a", most: int = 1000, by: str = "default"
    ) -> None:
        """Answer an annotator's first pairs: `choice` about the pair's own replies."""
        campaign = self.campaign
        words = {choice: words for words, choice in ANSWERS.items()}
        other: dict[Choice, Choice] = {"a": "b", "b": "a"}
        for one in campaign.of(annotator)[:most]:
            shown = other.get(choice, choice) if one.swapped else choice
            trace_id = campaign.trace_id(one)
            self.log(trace_id, BETTER, words[shown], by, rationale=f"{annotator} says so")
            self.log(trace_id, STRENGTH, "clearly", by)
            self.finish(annotator, trace_id, by=by)


def opened_campaign(
    workspace: Workspace, count: int, *annotators: str, overlap: float = 0.0, name: str = "week-48"
) -> OpenedCampaign:
    """Open a campaign for annotators, on made pairs."""
    folder = CampaignFolder(workspace, name)
    options = OpenOptions(("onpolicy",), count, annotators, overlap, "random", 1)
    with folder.locked():
        write_campaign(folder, made_pairs(count), options, {"name": "run-1"}, workspace)
        make_in_mlflow(folder, workspace)
    return OpenedCampaign(folder, workspace)
