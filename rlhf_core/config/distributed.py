"""The number of training processes, and the hosts that they run on."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from rlhf_core.config.fields import Config, NonNegative, Positive

if TYPE_CHECKING:
    from rlhf_core.config.recipe import Recipe

_HOST = re.compile(r"^(\S+)\s+slots=([1-9]\d*)$")


class RayPlacement(Config):
    """The place of the ranks in a Ray cluster; for launcher 'ray' alone."""

    ranks_per_host: Positive | None = Field(
        None,
        description=(
            "Ranks on each host, a divisor of ranks. None: Ray fills one host after the other."
        ),
    )
    cpus_per_rank: Positive = Field(
        1, description="CPUs that a rank reserves. Without GPUs, its threads (OMP_NUM_THREADS) too."
    )
    wait_minutes: NonNegative = Field(
        10.0, description="Minutes to wait for resources of the cluster that others have."
    )


class Distributed(Config):
    """The ranks of the training stages, started by DeepSpeed's launcher or by Ray.

    Each rank has a GPU, or is a process on a CPU.
    """

    ranks: Positive = Field(
        1,
        description=(
            "Ranks on this host; with launcher 'ray' in the cluster. With a hostfile, its slots"
            " count instead."
        ),
    )
    hostfile: str | None = Field(
        None, description="File with one line 'HOST slots=RANKS' per host. None: this host alone."
    )
    launcher: Literal["pdsh", "by_hand", "ray"] = Field(
        "pdsh",
        description=(
            "Start of ranks on other hosts. 'pdsh': over ssh. 'by_hand': you run the printed"
            " command on each host. 'ray': on the Ray cluster that RAY_ADDRESS names, or this host"
            " belongs to."
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
    ray: RayPlacement = Field(
        RayPlacement(), description="Place of the ranks in a Ray cluster, with launcher 'ray'."
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

    @property
    def leaves_this_host(self) -> bool:
        """True where ranks may run on other hosts than this one."""
        return self.hostfile is not None or self.launcher == "ray"

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
        self._fits_ray()
        return self

    def _fits_ray(self) -> None:
        if self.launcher != "ray":
            if self.ray != RayPlacement():
                raise ValueError(
                    f"section ray with launcher {self.launcher!r}; it is for launcher 'ray' alone."
                    " Leave it out, or set launcher to 'ray'"
                )
            return
        if self.hostfile is not None:
            raise ValueError(
                f"launcher 'ray' and hostfile {self.hostfile} exclude each other; the cluster knows"
                " its hosts. Leave hostfile out and set ranks"
            )
        if self.ranks == 1:
            raise ValueError(
                "launcher 'ray' with ranks 1; a single rank runs on this host. Set ranks to 2 or"
                " more, or leave launcher out"
            )
        if self.ray.ranks_per_host and self.ranks % self.ray.ranks_per_host:
            raise ValueError(
                f"ray.ranks_per_host {self.ray.ranks_per_host} does not divide ranks {self.ranks};"
                " expected equally many ranks on each host. Change one of them"
            )


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
    if own and recipe.distributed.leaves_this_host:
        hostfile = recipe.distributed.hostfile
        hosts, instead = (
            (f"hostfile {hostfile}", "distributed.ranks in place of the hostfile")
            if hostfile is not None
            else ("launcher 'ray'", "leave launcher out")
        )
        raise ValueError(
            f"ppo.sampling.own_devices {own} with {hosts}: the sampler's server is for ranks of"
            f" one host; set own_devices to 0, or {instead}"
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
