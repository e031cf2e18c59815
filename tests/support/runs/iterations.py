"""A loop of `rlhf iterate` as its file has it, without any run."""

from typing import Any

from tasks.iterate.iteration import Iteration, LabelRequest


def made_iteration(pairs: int = 5, **changes: Any) -> Iteration:
    """Return a loop of recipe 'tiny' that asks for two rounds of `pairs` pairs."""
    values: dict[str, Any] = {
        "id": "i1",
        "name": "tiny-iterate",
        "recipe": "tiny",
        "registry": "tiny",
        "request": LabelRequest(by="m:f", sources=("onpolicy",), pick="random", pairs=pairs),
        "rounds_wanted": 2,
        "tracking_uri": "sqlite:///mlflow.db",
    }
    return Iteration(**values | changes)
