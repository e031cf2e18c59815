"""The packages and the devices of the interpreter that runs this; no package is imported for it."""

import re
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path


def package_folder(name: str) -> Path | None:
    """Return the folder of an installed package, None where there is none. It is not imported."""
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def versions() -> dict[str, str]:
    """Return the version of each installed distribution, by its name in small letters and '-'."""
    found: dict[str, str] = {}
    for one in distributions():
        if name := one.metadata["Name"]:  # None for what a broken installation has left
            found.setdefault(normal_name(name), one.version)  # the first is the one that imports
    return dict(sorted(found.items()))


def normal_name(name: str) -> str:
    """Return the name of a distribution as indices compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def gpus() -> tuple[int, int]:
    """Return the number of visible GPUs, and the bytes of the first one's memory."""
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory
    return torch.cuda.device_count(), memory
