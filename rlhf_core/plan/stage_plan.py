"""The plan of one stage: its parts in memory, their phases, and the peak on one device."""

from dataclasses import dataclass

from rlhf_core.plan.shape import ModelShape
from rlhf_core.plan.strategy import Hardware, Strategy

MEMORY_KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "KV cache", "buffers")


@dataclass(frozen=True)
class MemoryPart:
    """Bytes of one kind for one model; `phases` in which they are held, None: always."""

    model: str
    kind: str
    bytes: float
    phases: tuple[str, ...] | None = None

    def held_in(self, phase: str) -> bool:
        """Return True if the bytes are held in this phase."""
        return self.phases is None or phase in self.phases


@dataclass(frozen=True)
class CheckpointPlan:
    """The checkpoints of one stage.

    size: bytes of one, of all ranks together. copied: one is written from a copy in main memory,
    which all ranks together hold.
    """

    size: int
    kept: int
    copied: bool

    @property
    def disk(self) -> int:
        """Bytes on disk while one more is being written."""
        return self.size * (self.kept + 1)


@dataclass(frozen=True)
class StagePlan:
    """One stage on one device; every device holds the same.

    host: bytes in host memory per device. checkpoints: None for a stage that does not learn.
    """

    stage: str
    strategy: Strategy
    hardware: Hardware
    parts: tuple[MemoryPart, ...]
    host: float
    checkpoints: CheckpointPlan | None = None

    @property
    def phases(self) -> list[str]:
        """Phases that some part names, in order of first appearance."""
        return list(dict.fromkeys(phase for part in self.parts for phase in part.phases or ()))

    def bytes_in(self, phase: str) -> float:
        """Return the bytes of all models in a phase, without overhead."""
        return sum(part.bytes for part in self.parts if part.held_in(phase))

    @property
    def peak_phase(self) -> str:
        """The phase that holds most bytes."""
        return max(self.phases, key=self.bytes_in)

    @property
    def peak(self) -> float:
        """Bytes at the peak, overhead included."""
        return self.bytes_in(self.peak_phase) + self.hardware.overhead

    @property
    def spare(self) -> float:
        """Bytes left at the peak; negative if the stage does not fit."""
        return self.hardware.capacity - self.peak

    @property
    def fits(self) -> bool:
        """True if one device has the bytes of the peak."""
        return self.spare >= 0


@dataclass(frozen=True)
class StageModels:
    """The shapes in a recipe.

    policy: of the policy and its copies. reward: of the reward model and the critic made from it.
    """

    policy: ModelShape
    reward: ModelShape
