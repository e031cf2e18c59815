"""The number of training processes, and the hosts that they run on."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from rlhf_core.config.fields import Config, Positive

if TYPE_CHECKING:
    from rlhf_core.config.recipe import Recipe

_HOST = re.compile(r"^(\S+)\s+slots=([1-9]\d*)$")


class Distributed(Config):
    """The ranks of the training stages, started by DeepSpeed's launcher.

    Each rank has a GPU, or is a process on a CPU.
    """

    ranks: Positive = Field(
        1, description="Ranks on this host. With a hostfile, its slots count instead."
    )
    hostfile: str | None = Field(
        None, description="File with one line 'HOST slots=RANKS' per host. None: this host alone."
    )
    launcher: Literal["pdsh", "by_hand"] = Field(
        "pdsh",
        description=(
            "Start of ranks on other hosts. 'pdsh': over ssh. 'by_hand': you run the printed"
            " command on each host."
        ),
    )
    master_addr: str | None = Field(
        None,
        description="Address of the first host. None: the first one that `hostname -I` prints.",
    )
    master_port: int | None = Field(
        None,
        ge=1024,
        le=65535,
        description="Port of rank 0. None: a free port, or 29500 with a hostfile.",
    )

    @property
    def hosts(self) -> dict[str, int]:
        """Ranks by host, in the hostfile's order.

        Raises ValueError if the hostfile cannot be read.
        """
        if self.hostfile is None:
            return {"localhost": self.ranks}
        return self._read_hosts(self.hostfile)

    @staticmethod
    def _read_hosts(hostfile: str) -> dict[str, int]:
        try:
            lines = Path(hostfile).expanduser().read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ValueError(
                f"hostfile {hostfile} cannot be read ({error}); expected a text file"
            ) from None
        found: dict[str, int] = {}
        for line in filter(None, (line.partition("#")[0].strip() for line in lines)):
            match = _HOST.match(line)
            if not match or match[1] in found:
                raise ValueError(
                    f"hostfile {hostfile}: {line!r} is no line 'HOST slots=RANKS' of a new host"
                )
            found[match[1]] = int(match[2])
        if not found:
            raise ValueError(
                f"hostfile {hostfile} names no host; expected lines 'HOST slots=RANKS'"
            )
        return found

    @property
    def world_size(self) -> int:
        """Ranks over all hosts."""
        return sum(self.hosts.values())

    @model_validator(mode="after")
    def _fits_together(self) -> "Distributed":
        if self.hostfile is not None and self.ranks != 1:
            raise ValueError(
                f"ranks {self.ranks} and hostfile {self.hostfile} exclude each other; the"
                " hostfile's slots say how many"
            )
        if self.hostfile is None and self.master_addr is not None:
            raise ValueError(
                f"master_addr {self.master_addr} without a hostfile; all ranks are on this host,"
                " leave it out"
            )
        if self.launcher == "by_hand" and self.hostfile is not None and self.master_addr is None:
            raise ValueError(
                "launcher 'by_hand' needs master_addr, the first host's address as the others"
                " know it"
            )
        if self.hostfile is not None:
            self._read_hosts(self.hostfile)  # refuse a bad hostfile when the recipe is loaded
        return self


def require_replicas_fit(recipe: "Recipe") -> None:
    """Raise ValueError where the samplers of a recipe cannot be divided among its devices."""
    ranks, sampling = recipe.distributed.world_size, recipe.ppo.sampling
    size, own = sampling.tensor_parallel, sampling.own_devices
    sharing = {"evaluate": recipe.evaluate.sampling.tensor_parallel}
    if not own:
        sharing["ppo"] = size
    for stage, parallel in sharing.items():
        if ranks % parallel:
            raise ValueError(
                f"{stage}.sampling.tensor_parallel {parallel} does not divide the {ranks}"
                " ranks, which are the sampler's devices too; set it to a divisor, or"
                " distributed.ranks to a multiple"
            )
    if own and recipe.distributed.hostfile is not None:
        raise ValueError(
            f"ppo.sampling.own_devices {own} with hostfile {recipe.distributed.hostfile}: the"
            " sampler's server is for ranks of one host; set own_devices to 0, or"
            " distributed.ranks in place of the hostfile"
        )
    if own and recipe.ppo.rollout_batch < own // size:
        raise ValueError(
            f"ppo.rollout_batch {recipe.ppo.rollout_batch} is less than {own // size} samplers"
            " (own_devices / tensor_parallel). Each needs a prompt: raise it, or lower"
            " ppo.sampling.own_devices"
        )
    if own:
        return
    if recipe.ppo.rollout_batch < ranks // size:
        raise ValueError(
            f"ppo.rollout_batch {recipe.ppo.rollout_batch} is less than {ranks // size} samplers"
            " (ranks / tensor_parallel). Each needs a prompt: raise it, or lower"
            " distributed.ranks"
        )
