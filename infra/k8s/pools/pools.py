"""Write the base job template of each work pool: template.yaml with the figures of its class.

.venv/stage/bin/python infra/k8s/pools/pools.py FOLDER    # writes cpu.json, gpu.json, 8gpu.json
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

TEMPLATE = Path(__file__).with_name("template.yaml")


@dataclass(frozen=True)
class MachineClass:
    """Machines of one kind. cpu: cores; memory and shared_memory (/dev/shm): quantities."""

    description: str
    image: str
    cpu: str
    memory: str
    shared_memory: str
    gpus: int = 0


# by name: the pool is rlhf-NAME, its nodes are those with the label rlhf/class=NAME
CLASSES = {
    "cpu": MachineClass(
        "Stages on CPUs: quickstart, validation, small models", "rlhf:cpu", "4", "16Gi", "8Gi"
    ),
    "gpu": MachineClass("One GPU", "rlhf:gpu", "8", "96Gi", "16Gi", gpus=1),
    "8gpu": MachineClass("A whole node of eight GPUs", "rlhf:gpu", "64", "768Gi", "64Gi", gpus=8),
}


def pool(name: str) -> dict:
    """Return the base job template of the pool of a class."""
    made, machine = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8")), CLASSES[name]
    made["variables"]["description"] = machine.description
    fields = made["variables"]["properties"]
    for field in ("image", "cpu", "memory", "shared_memory"):
        fields[field]["default"] = getattr(machine, field)
    fields["node_selector"]["default"] = {"rlhf/class": name}
    if machine.gpus:
        pod = made["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
        pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = str(machine.gpus)
        pod["tolerations"] = [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
    return made


def main(folder: Path) -> None:
    """Write a JSON file for each class, as `prefect work-pool create` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CLASSES:
        text = json.dumps(pool(name), indent=1) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
        print(folder / f"{name}.json")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: pools.py FOLDER")
    main(Path(sys.argv[1]))
