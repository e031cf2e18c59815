"""The prices of an hour of a core and of a GPU: a TOML file of the site, not of a recipe.

currency = "EUR"
cpu_hour = 0.04
gpu_hour = 2.5      # of a GPU that [gpu] does not name

[gpu]               # by a part of the name that the run's hardware has
H200 = 3.9
A100 = 1.8
"""

import os
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf_core.errors import ConfigError
from tasks.records.workspace import Workspace

VARIABLE = "RLHF_PRICES"
FILE = "prices.toml"  # in the workspace


class Prices(BaseModel):
    """The prices of one hour, in one currency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: str = Field("", max_length=8)
    cpu_hour: float = Field(0.0, ge=0)
    gpu_hour: float = Field(0.0, ge=0)
    gpu: dict[str, float] = {}

    def of_gpu(self, name: str) -> float:
        """Return the price of an hour of a GPU: of the longest name in [gpu] that is part of it."""
        known = [part for part in self.gpu if part.lower() in name.lower()]
        return self.gpu[max(known, key=len)] if known else self.gpu_hour


def load_prices(workspace: Workspace) -> Prices | None:
    """Return the prices in the file that RLHF_PRICES names, else in the workspace; None without.

    Raises ConfigError for a file that RLHF_PRICES names and that is not there, and for one that is
    not as described above.
    """
    named = os.environ.get(VARIABLE)
    file = Path(named).expanduser() if named else workspace.home / FILE
    if not named and not file.exists():
        return None
    try:
        found = Prices.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            f"the prices {file} cannot be read ({error.strerror}); expected a TOML file. Correct"
            f" {VARIABLE}, or unset it to use {FILE} of the workspace."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prices {file} are not valid TOML: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"the prices {file}: {key}: {first['msg']} (found {first['input']!r}); expected"
            " currency, cpu_hour, gpu_hour and a table [gpu] of names with prices of an hour."
        ) from None
    if negative := [name for name, price in found.gpu.items() if not 0 <= price < float("inf")]:
        raise ConfigError(f"the prices {file}: gpu.{negative[0]} is no price; expected 0 or more.")
    return found
