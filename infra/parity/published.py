"""Load single source files of published packages, byte for byte, without their dependencies.

verl, openrlhf and trl import ray, peft, vLLM, an old transformers and much else at their top. None
of these takes part in the functions that are compared. Such imports therefore get inert stand-ins,
while each file in FILES is executed as published.
"""

import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from types import ModuleType
from typing import ClassVar

FILES = {
    "verl.trainer.ppo.core_algos": "verl",
    "verl.trainer.ppo.rollout_corr_helper": "verl",
    "verl.workers.reward_manager.dapo": "verl",
    "verl.utils.torch_functional": "verl",
    "openrlhf.models.loss": "openrlhf",
    "openrlhf.models.utils": "openrlhf",
    "trl.core": "trl",
    "trl.trainer.ppo_trainer": "trl",
}
STOOD_IN = {
    "verl",
    "openrlhf",
    "trl",
    "tensordict",
    "omegaconf",
    "transformers",
    "datasets",
    "accelerate",
    "huggingface_hub",
    "deepspeed",
}


class _StandIn:
    """A class to inherit from, annotate with, call, or decorate with (which changes nothing)."""

    def __init__(self, *_args, **_kwargs):
        pass

    def __call__(self, function):
        return function


class _StandInModule(ModuleType):
    __path__: ClassVar[list[str]] = []  # marks a package, so that submodules are looked for

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (_StandIn,), {})
        setattr(self, name, value)
        return value


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if package := FILES.get(fullname):
            file = importlib.metadata.distribution(package).locate_file(
                fullname.replace(".", "/") + ".py"
            )
            return importlib.util.spec_from_file_location(fullname, file)
        if fullname.split(".")[0] in STOOD_IN:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _StandInModule(spec.name)

    def exec_module(self, module):
        pass


def load(name: str) -> ModuleType:
    """Return the module of one file in FILES."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    return importlib.import_module(name)


def versions() -> dict[str, str]:
    """Return the version of each compared package, and of torch."""
    return {
        package: importlib.metadata.version(package)
        for package in ("verl", "openrlhf", "trl", "torch")
    }
