"""`rlhf label status`: how far a campaign is."""

from flows.cli.labels.options import CampaignName
from flows.cli.options import AsJson
from flows.cli.output import console, print_json


def label_status(name: CampaignName, as_json: AsJson = False) -> None:
    """Show how far a campaign is: per person, disputes, alpha.

    Per person: pairs done, declined and open, seconds per vote, share with the majority of the
    others, share for the reply shown first, share of gold items right. An answer that does not
    count is listed with its reason.
    """
    from rich.text import Text

    from flows.api.labelling import LabelCampaign
    from flows.cli.tables.labels import agreement_lines, annotator_table, progress_table, why_lines

    found = LabelCampaign(name).status()
    if as_json:
        print_json(found.as_json())
        return
    printer = console()
    printer.print(progress_table(found.states))
    printer.print(annotator_table(found.report))
    lines = [*agreement_lines(found.report), *why_lines(found.refused)]
    lines += [f"{one}: {page}" for one, page in found.pages.items()]
    if found.closed:
        lines.append(f"closed: {found.closed['comparisons']} comparisons in {found.closed['out']}")
    for line in lines:
        printer.print(Text(line), soft_wrap=True)
