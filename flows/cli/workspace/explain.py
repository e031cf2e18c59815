"""`rlhf explain`: the runbook's section on an error."""

from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli.options import AsJson
from flows.cli.output import print_json


def code_names(incomplete: str) -> list[str]:
    """Return the codes that begin with `incomplete`."""
    from flows.api.error_codes import error_codes

    return [found.code for found in error_codes() if found.code.startswith(incomplete.upper())]


Code = Annotated[
    str | None,
    typer.Argument(
        metavar="[CODE]",
        help="As the message has it in brackets, e.g. RLHF-F001 or F001; without it, list all",
        autocompletion=code_names,
    ),
]


def explain(code: Code = None, as_json: AsJson = False) -> None:
    """Explain the code that an error's message ends with, and say what to do.

    The text is the section of infra/docs/operate/runbook.md with that code.
    """
    from flows.api.error_codes import error_codes
    from flows.api.error_codes import explain as explained

    found = error_codes() if code is None else [explained(code)]
    if as_json:
        values = [asdict(one) for one in found]
        print_json(values if code is None else values[0])
    elif code is None:
        print("\n".join(f"{one.code}  {one.title}" for one in found))
    else:
        print(f"{found[0].code}: {found[0].title} ({found[0].exit})\n\n{found[0].text}")
