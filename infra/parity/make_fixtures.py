"""Write tests/core/objectives/fixtures/*.safetensors, the answers of published packages.

    python infra/parity/make_fixtures.py tests/core/objectives/fixtures

The inputs are seeded float64 tensors. Runs in an environment of its own (README.md). Versions, seed
and settings go into each file's metadata; the same ones give the same bytes.
"""

import json
import sys
from pathlib import Path

from cases import SEED, SETTINGS, make_inputs
from openrlhf_cases import openrlhf_cases
from published import versions
from safetensors.torch import save_file
from trl_cases import trl_cases
from verl_cases import verl_cases
from verl_reward_cases import verl_reward_cases


def main(folder: Path) -> None:
    """Write the inputs and one file per package."""
    folder.mkdir(parents=True, exist_ok=True)
    x = make_inputs()
    files = {"inputs": x, "verl": verl_cases(x), "openrlhf": openrlhf_cases(x), "trl": trl_cases(x)}
    files["verl_rewards"] = verl_reward_cases()
    made_by = {"versions": versions(), "seed": SEED, "settings": SETTINGS}
    metadata = {"made_by": json.dumps(made_by)}  # one key: safetensors may reorder several
    for name, tensors in files.items():
        copies = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
        save_file(copies, folder / f"{name}.safetensors", metadata)
        print(f"{name}: {len(copies)} tensors")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_fixtures.py FOLDER")
    main(Path(sys.argv[1]))
