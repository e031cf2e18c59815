"""`rlhf schedules`: the deployments on the Prefect server."""

from flows.cli.options import AsJson
from flows.cli.output import console, print_json
from flows.settings import quiet_libraries


def schedules(as_json: AsJson = False) -> None:
    """List the deployments on the Prefect server, their next and latest runs."""
    quiet_libraries()
    from flows.schedule.listing import listing, listing_table

    rows = listing()
    if as_json:
        print_json(rows)
    elif rows:
        console().print(listing_table(rows))
    else:
        print(
            'Nothing is deployed. Deploy a recipe with: rlhf deploy RECIPE --name weekly --cron "0'
            ' 2 * * 0"'
        )
