"""The model classes that vLLM serves, read without importing vLLM, which takes seconds."""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

VLLMService = Literal["own", "transformers", "none"]


def service_of(architecture: str) -> VLLMService | None:
    """Return how vLLM serves a model class: by its own, by transformers' class, or not at all.

    None where vLLM is not installed, and for a class that neither of them has.
    """
    classes = vllm_classes()
    if classes is None:
        return None
    if architecture in classes:
        return "own"
    import transformers

    own = getattr(transformers, architecture, None)
    if own is None:
        return None
    # the condition of vLLM's registry
    fits = own.is_backend_compatible() or own._can_set_attn_implementation()
    return "transformers" if fits else "none"


def vllm_classes() -> frozenset[str] | None:
    """Return the names in the tables of vLLM's registry; None where vLLM is not installed."""
    found = find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        return None
    package = Path(next(iter(found.submodule_search_locations)))
    source = (package / "model_executor" / "models" / "registry.py").read_text(encoding="utf-8")
    return frozenset(
        key.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        if _name(node).endswith("_MODELS") and _name(node) not in _NOT_SERVED
        for key in node.value.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    )


_NOT_SERVED = ("_PREVIOUSLY_SUPPORTED_MODELS", "_OOT_SUPPORTED_MODELS")


def _name(node: ast.Assign) -> str:
    target = node.targets[0]
    return target.id if isinstance(target, ast.Name) else ""
