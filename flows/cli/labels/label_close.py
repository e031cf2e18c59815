"""`rlhf label close`: a campaign's votes become comparisons."""

from flows.cli.labels.options import CampaignName, LeastAlpha, OutFile, RealNames, Weigh
from flows.cli.options import AsJson
from flows.cli.output import print_json


def label_close(
    name: CampaignName,
    out: OutFile,
    min_alpha: LeastAlpha = None,
    weights: Weigh = "none",
    names: RealNames = False,
    as_json: AsJson = False,
) -> None:
    """Turn a campaign's votes into comparisons, and end its queues.

    All or nothing: a close that was killed is completed, or has done nothing, when it is called
    again. A vote counts where MLflow's server recorded that its annotator completed the pair; the
    name in an answer proves nothing. Nobody can label in the campaign's queues afterwards.
    """
    from flows.api.labelling import LabelCampaign

    done = LabelCampaign(name).close(out, min_alpha=min_alpha, weighting=weights, real_names=names)
    if as_json:
        print_json({"name": name} | done)
        return
    print(
        f"Campaign {name} is closed. {done['comparisons']} comparisons: {done['out']}."
        f" {done['apart']} pairs without a preference, {done['votes']} votes, report and"
        f" provenance: {done['out'].removesuffix('.jsonl')}.labels/."
    )
