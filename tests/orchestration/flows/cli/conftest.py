"""A recipe for commands that run real stages."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def real_recipe(tmp_path, tiny_model) -> Path:
    """A recipe on the tiny model and 60 prompts, whose stages are the core's."""
    prompts = [f"w{i % 50} w{i // 50}" for i in range(60)]
    demonstrations = [{"prompt": prompt, "response": f"{prompt} w1"} for prompt in prompts]
    pairs = [{"prompt": each, "chosen": "w1 w2", "rejected": "w3 w4 w5"} for each in prompts]
    for name, rows in (("d", demonstrations), ("c", pairs)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    file = tmp_path / "tiny.toml"
    file.write_text(
        f"""
name = "tiny"
model.base = "{tiny_model}"
registry.name = "tiny"
[data]
demonstrations = "{tmp_path}/d.jsonl"
comparisons = "{tmp_path}/c.jsonl"
heldout_fraction = 0.2
rules = {{min_demonstrations = 5, min_comparisons = 5, min_heldout = 1}}
"""
    )
    return file
