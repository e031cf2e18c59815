"""Facts about a model folder that config.json alone gives: context, scalar head, embeddings.

transformers is imported only where config.json does not say enough.
"""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.errors import BadInput

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# families with a causal model, by model_type, whose sequence classifier has another head than one
# linear map `score`, or whose backbone does not load by itself (Llama 4, Mllama); the others get a
# scalar head (modeling/classifier.py)
WITHOUT_SCALAR_HEAD = frozenset(
    (
        "bart",
        "bert",
        "big_bird",
        "bigbird_pegasus",
        "camembert",
        "ctrl",
        "data2vec-text",
        "electra",
        "ernie",
        "llama4",
        "llama4_text",
        "mbart",
        "megatron-bert",
        "mllama",
        "modernbert-decoder",
        "mvp",
        "plbart",
        "reformer",
        "rembert",
        "roberta",
        "roberta-prelayernorm",
        "roc_bert",
        "roformer",
        "xlm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xlnet",
        "xmod",
    )
)
CONTEXT_NAMES = ("max_position_embeddings", "max_seq_len")  # MPT has the second


def context_length(config: "PretrainedConfig") -> int | None:
    """Return the most tokens that the model reads, its reply included; None without a limit.

    transformers maps a family's own name, such as GPT-2's n_positions.
    """
    text = config.get_text_config()
    return next((found for name in CONTEXT_NAMES if (found := getattr(text, name, None))), None)


def context_of(folder: Path) -> int | None:
    """Return the context that config.json names, in tokens; None if it names none."""
    config = read_config(folder)
    text = config.get("text_config") or config
    if found := text.get(CONTEXT_NAMES[0]):
        return int(found)
    names = (_own_name(text.get("model_type")), CONTEXT_NAMES[1])
    return next((int(found) for name in names if name and (found := text.get(name))), None)


def _own_name(model_type: str | None) -> str | None:
    """Return the family's own name of the context, by transformers' map of attributes."""
    if not model_type:
        return None
    from transformers import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        return None
    return CONFIG_MAPPING[model_type].attribute_map.get(CONTEXT_NAMES[0])


def read_config(folder: Path) -> dict:
    """Return the values of a model folder's config.json. Raises BadInput when it is not JSON."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(
            f"{folder / 'config.json'} is not JSON ({error}); copy the model again"
        ) from None


def has_sequence_classifier(model_type: str) -> bool:
    """Return True if transformers has a sequence classifier of this family.

    The name is looked for in the text of transformers' table: to import it takes two seconds.
    """
    package = find_spec("transformers")
    assert package and package.origin  # a requirement of this project
    table = Path(package.origin).parent / "models" / "auto" / "modeling_auto.py"
    entry = rf'\("{re.escape(model_type)}",\s*"\w+ForSequenceClassification"'
    return re.search(entry, table.read_text(encoding="utf-8")) is not None


def embedding_rows(folder: Path) -> int | None:
    """Return the number of token ids that have an embedding; None if no config.json says it."""
    if not (folder / "config.json").exists():
        return None
    config = read_config(folder)
    return (config.get("text_config") or config).get("vocab_size") or config.get("vocab_size")
