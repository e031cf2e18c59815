"""A model folder against what the pipeline needs, by the checks that a run makes.

Nothing is trained, and no weight is read: names and shapes are enough.
"""

from collections import Counter
from functools import partial
from pathlib import Path

from safetensors import safe_open
from transformers import PreTrainedTokenizerBase

from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.inspection.findings import ModelFinding, checked, note, ok, refuses
from rlhf_core.inspection.tokens import tokenizer_findings
from rlhf_core.modeling.models import tied_names
from rlhf_core.modeling.requirements import (
    WITHOUT_SCALAR_HEAD,
    context_of,
    embedding_rows,
    has_sequence_classifier,
)
from rlhf_core.modeling.trainable import (
    is_classifier,
    load_config,
    require_language_model,
    structure_of,
)
from rlhf_core.modeling.vocabulary import require_embeddings
from rlhf_core.sampling.architectures import service_of

SIZES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def inspect_model(folder: Path) -> list[ModelFinding]:
    """Return what a run would find of a model folder that has its files.

    What needs a part that is refused is left out.
    """
    found = [checked("architecture", partial(_architecture, folder))]
    if not refuses(found, "architecture"):
        found += [checked("weights", partial(_weights, folder)), _context(folder)]
        if not is_classifier(load_config(folder)):
            found += [_tied(folder), _classifier(folder), _service(folder)]
    tokenizer = checked("tokenizer", partial(_tokenizer, folder))
    found.append(tokenizer)
    if tokenizer.level != "refused":
        loaded = load_tokenizer(folder)
        found.append(checked("embeddings", partial(_embeddings, loaded, folder)))
        found += tokenizer_findings(loaded, folder)
    return found


def _architecture(folder: Path) -> ModelFinding:
    require_language_model(folder)
    config = load_config(folder)
    (name, *_) = config.architectures or [type(config).__name__]
    use = ", for model.reward" if is_classifier(config) else ""
    return ok("architecture", f"{name}, family {config.model_type}{use}", family=config.model_type)


def _weights(folder: Path) -> ModelFinding:
    count = sum(weight.numel() for weight in structure_of(folder).parameters())
    types = Counter(
        file.get_slice(name).get_dtype()
        for path in sorted(folder.glob("*.safetensors"))
        for file in [safe_open(path, "pt")]
        for name in sorted(file.keys())
    )
    names = [SIZES.get(kind, kind) for kind, _ in types.most_common()]
    return ok(
        "weights",
        f"{count:,} parameters, saved in {' and '.join(names)}; the pipeline loads them in float32",
        parameters=count,
        dtypes=names,
    )


def _context(folder: Path) -> ModelFinding:
    context = context_of(folder)
    if context is None:
        return ok("context", "config.json names no limit", tokens=None)
    return ok("context", f"{context:,} tokens, prompt and reply together", tokens=context)


def _tied(folder: Path) -> ModelFinding:
    names = sorted(tied_names(folder))
    if not names:
        return ok("tied weights", "none", names=[])
    return ok(
        "tied weights",
        f"{', '.join(names)}: the samplers get new weights under the names of the saved file",
        names=names,
    )


def _classifier(folder: Path) -> ModelFinding:
    family = load_config(folder).model_type
    if family in WITHOUT_SCALAR_HEAD:
        return note(
            "reward model",
            f"transformers makes no sequence classifier of {family} with one linear head: a recipe"
            " that trains a reward model or a critic of its own from it is refused",
        )
    if has_sequence_classifier(family):
        return ok("reward model", f"transformers has a sequence classifier of {family}")
    return ok(
        "reward model",
        f"transformers has no sequence classifier of {family}: a reward model or critic gets a"
        " scalar head on its backbone",
    )


def _service(folder: Path) -> ModelFinding:
    architectures = load_config(folder).architectures or []
    service = service_of(architectures[0]) if architectures else None
    name = architectures[0] if architectures else "the class"
    if service == "own":
        return ok("vLLM", f"serves {name}", service=service)
    remedy = "set ppo.sampling.engine and evaluate.sampling.engine to 'transformers'"
    sentences = {
        "transformers": f"has no {name} of its own and runs transformers' class, which is untried",
        "none": f"does not serve {name}; {remedy}",
        None: f"not known whether it serves {name}: it is not installed, or has no such class",
    }
    return note("vLLM", sentences[service], service=service)


def _tokenizer(folder: Path) -> ModelFinding:
    tokenizer = load_tokenizer(folder)
    return ok(
        "tokenizer", f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens", tokens=len(tokenizer)
    )


def _embeddings(tokenizer: PreTrainedTokenizerBase, folder: Path) -> ModelFinding:
    require_embeddings(tokenizer, folder)
    rows = embedding_rows(folder)
    if rows is None:
        return note("embeddings", "config.json names no vocab_size", rows=None)
    return ok("embeddings", f"{rows:,}, one for every token that text gives", rows=rows)
