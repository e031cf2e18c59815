"""The source files of functions that a recipe names; they are part of a stage's identity."""

import ast
from pathlib import Path

from rlhf_core import ROOT
from rlhf_core.errors import BadInput
from rlhf_core.named_functions import is_offered, located
from rlhf_core.rundir import Artifact
from tasks.execution.stage_calls import ask
from tasks.stages.spec import permitted

OWN_CODE = tuple(ROOT / name for name in ("rlhf_core", "tasks", "flows"))
# what these bind is known only when the module runs
_ANY_NAME = {"*", "__getattr__", "globals", "setattr", "exec"}


def source_of(field: str, name: str, group: str | None, *, in_stage: bool = True) -> Artifact:
    """Return the source file of the module that holds a function which a recipe names.

    name: 'module:function', or a name that an installed package offers. group: the entry points
    that offer such names; None where no package may. in_stage: a stage calls it, so that it is
    looked for where stages run; else in this process. The current folder is searched first, as in a
    stage process. The source is part of a run's identity: an edited scorer is asked again. Nothing
    of it runs here. Raises BadInput for a name that no package offers, and for a module that is not
    there, cannot be read, or has no such name.
    """
    offered, asked = is_offered(name), (f"{field} is {name!r}", name, group)
    look = "rlhf_core.named_functions:located"
    name, file = ask(look, *asked) if in_stage else located(*asked)
    if file is None:
        raise BadInput(
            f"{field} is {name!r}: no such module in {Path.cwd()} nor installed; expected"
            " 'module:function'."
        )
    if not offered:  # else whoever installed the package allowed it
        permitted(field, file, *OWN_CODE)
    _require_name(field, name, file)
    return Artifact.of(file)


def _require_name(field: str, name: str, file: Path) -> None:
    """Raise BadInput when the module's source binds no such name; nothing of it runs."""
    if file.suffix != ".py":
        return
    attribute = name.partition(":")[2]
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError) as error:
        raise BadInput(
            f"{field} is {name!r}, and {file} is no Python: {error}. Correct it."
        ) from None
    known = {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
    known |= {node.id for node in nodes if isinstance(node, ast.Name)}
    defined = {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    if (known | defined).isdisjoint(_ANY_NAME | {attribute}):
        raise BadInput(
            f"{field} is {name!r}, but {file} has no {attribute!r}; it defines"
            f" {', '.join(sorted(defined)) or 'no function'}."
        )
