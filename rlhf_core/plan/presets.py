"""Published model shapes, by name."""

from dataclasses import replace

from rlhf_core.errors import ConfigError
from rlhf_core.plan.shape import ModelShape

_LLAMA_2 = "Touvron et al. 2023, arXiv:2307.09288, and the config.json of meta-llama/Llama-2"
_LLAMA_3 = (
    "Grattafiori et al. 2024, arXiv:2407.21783, table 3, and the config.json of"
    " meta-llama/Meta-Llama-3"
)
_MISTRAL = "Jiang et al. 2023, arXiv:2310.06825, table 1"
_QWEN = "Qwen 2024, arXiv:2412.15115, table 1, and the config.json of Qwen/Qwen2.5"
_SMOLLM = "config.json of HuggingFaceTB/SmolLM2-135M"

_PUBLISHED = (
    ModelShape("smollm2-135m", _SMOLLM, 49_152, 576, 1_536, 30, 9, 3, 64, tied=True),
    ModelShape("llama-2-7b", _LLAMA_2, 32_000, 4_096, 11_008, 32, 32, 32, 128),
    ModelShape("llama-2-13b", _LLAMA_2, 32_000, 5_120, 13_824, 40, 40, 40, 128),
    ModelShape("llama-2-70b", _LLAMA_2, 32_000, 8_192, 28_672, 80, 64, 8, 128),
    ModelShape("llama-3-8b", _LLAMA_3, 128_256, 4_096, 14_336, 32, 32, 8, 128),
    ModelShape("llama-3-70b", _LLAMA_3, 128_256, 8_192, 28_672, 80, 64, 8, 128),
    ModelShape("mistral-7b", _MISTRAL, 32_000, 4_096, 14_336, 32, 32, 8, 128),
    ModelShape("qwen2.5-0.5b", _QWEN, 151_936, 896, 4_864, 24, 14, 2, 64, tied=True, qkv_bias=True),
    ModelShape(
        "qwen2.5-1.5b", _QWEN, 151_936, 1_536, 8_960, 28, 12, 2, 128, tied=True, qkv_bias=True
    ),
    ModelShape("qwen2.5-7b", _QWEN, 152_064, 3_584, 18_944, 28, 28, 4, 128, qkv_bias=True),
)
PRESETS = {shape.name: shape for shape in _PUBLISHED}
PRESETS |= {
    name.replace("llama-3-", "llama-3.1-"): shape
    for name, shape in PRESETS.items()
    if name.startswith("llama-3-")
}
for _size in (7, 13, 70):  # papers count 7B as 7 * 10^9 parameters, for all four models
    _like = PRESETS[f"llama-2-{_size}b"]
    _source = f"{_size} * 10^9 parameters in layers of {_like.name}; {_like.source}"
    PRESETS[f"{_size}b"] = replace(_like, name=f"{_size}b", source=_source, nominal=_size * 10**9)


def preset(name: str) -> ModelShape:
    """Return the shape of that name. Raises ConfigError that lists the known names."""
    try:
        return PRESETS[name.lower()]
    except KeyError:
        known = ", ".join(sorted(PRESETS))
        raise ConfigError(
            f"no model preset {name!r}; expected one of {known}. Any other model: --model-config"
            " FILE, its config.json."
        ) from None
