"""`rlhf recipes`: the recipes that come with the project."""

import tomllib

from flows.cli.options import AsJson
from flows.cli.output import print_json
from rlhf_core.config import RECIPES


def recipes(as_json: AsJson = False) -> None:
    """List the recipes that come with the project."""
    rows = [
        {
            "name": path.stem,
            "description": tomllib.loads(path.read_text(encoding="utf-8")).get("description", ""),
        }
        for path in sorted(RECIPES.glob("*.toml"))
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['name']:16} {row['description']}")
