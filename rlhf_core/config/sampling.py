"""The settings by which replies are sampled."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, model_validator

from rlhf_core.config.fields import Config, NonNegative, Positive


class DynamicSampling(Config):
    """Sampling of further prompts for groups whose rewards are all equal (DAPO).

    Such a group has advantage 0 at every token.
    """

    max_rounds: Positive = Field(
        10,
        description=(
            "Rounds of sampling per step, the first included. Then the step goes on with the groups"
            " that it has, or is refused when it has none."
        ),
    )
    min_spread: NonNegative = Field(
        1e-6,
        description=(
            "A group stays if its largest and its smallest reward differ by more than this. Reward:"
            " score less penalties, before centring, scaling, clipping and KL."
        ),
    )


class Sampling(Config):
    """The engine that generates replies, its sampling and its memory."""

    engine: Literal["vllm", "transformers"] = Field(
        "vllm",
        description=(
            "Engine that generates. 'transformers' is slower, for machines without vLLM. Neither"
            " ever replaces the other by itself."
        ),
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Sampling temperature. At 1.0, samples come from the policy itself."
    )
    max_new_tokens: Positive = Field(
        64, description="Largest number of tokens per response, the end-of-text token included."
    )
    kv_cache_mib: Positive = Field(
        512, description="Key-value cache of the sampler on each device, MiB."
    )
    tensor_parallel: Positive = Field(
        1, description="Devices that share one copy of the model. Divides the attention heads."
    )
    own_devices: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "For 'ppo': number of further devices of this host for vLLM's own server, the last of"
            " CUDA_VISIBLE_DEVICES (on a CPU: a process of its own). 0: vLLM runs in the training"
            " processes, on their devices."
        ),
    )
    sleep: bool = Field(
        False,
        description=(
            "vLLM releases its GPU memory while models train. CUDA only; elsewhere it keeps the"
            " memory."
        ),
    )

    eager: Literal["auto"] | StrictBool = Field(
        "auto",
        description=(
            "vLLM runs the model operation by operation (true), or compiles it and, on GPUs,"
            " replays CUDA graphs (false), which takes time when the sampler starts. 'auto': false"
            " on GPUs, true on a CPU."
        ),
    )

    adapter_sync: bool = Field(
        False,
        description=(
            "For 'ppo' with lora: vLLM keeps the base model and gets the adapter alone after each"
            " step, instead of merged weights. A sync is then small, and each token costs the"
            " adapter's products. vLLM only."
        ),
    )

    @model_validator(mode="after")
    def _offered_by_the_engine(self) -> "Sampling":
        if self.engine == "transformers" and (
            self.tensor_parallel > 1
            or self.sleep
            or self.own_devices
            or self.eager != "auto"
            or self.adapter_sync
        ):
            raise ValueError(
                f"engine 'transformers' with tensor_parallel {self.tensor_parallel}, sleep"
                f" {self.sleep}, eager {self.eager!r}, adapter_sync {self.adapter_sync} and"
                f" own_devices {self.own_devices}: only vLLM offers them; set engine to 'vllm', or"
                " leave them out"
            )
        return self

    def runs_eager(self, *, cuda: bool) -> bool:
        """Return True if vLLM runs the model operation by operation on such a machine."""
        return not cuda if self.eager == "auto" else self.eager

    @model_validator(mode="after")
    def _own_devices_are_used(self) -> "Sampling":
        if self.own_devices and self.sleep:
            raise ValueError(
                f"sleep with own_devices {self.own_devices}: nothing else wants the memory of the"
                " sampler's own devices; leave sleep out, or set own_devices to 0"
            )
        if self.own_devices % self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel {self.tensor_parallel} does not divide own_devices"
                f" {self.own_devices}; set it to a divisor, or own_devices to a multiple"
            )
        return self
