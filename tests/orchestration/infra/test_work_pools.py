"""The work pool templates for Docker and ECS: infra/pools, read as Prefect reads them."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prefect.utilities.schema_tools import validate
from prefect.utilities.templating import apply_values, find_placeholders

INFRA = Path(__file__).resolve().parents[3] / "infra"
TEMPLATES = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((INFRA / "pools").glob("*.json"))
}
EXAMPLES = {"network_configuration": {"subnets": ["subnet-1"], "securityGroups": ["sg-1"]}}


def variables(template: dict) -> dict:
    return template["variables"]["properties"]


def defaults(template: dict) -> dict:
    return {
        name: item["default"] for name, item in variables(template).items() if "default" in item
    }


@pytest.fixture(params=TEMPLATES)
def template(request) -> dict:
    return TEMPLATES[request.param]


def test_each_variable_is_used_and_each_placeholder_is_a_variable(template):
    used = {placeholder.name for placeholder in find_placeholders(template["job_configuration"])}
    assert used == set(variables(template))


def test_a_variable_without_a_default_is_required(template):
    assert set(template["variables"].get("required", [])) == set(variables(template)) - set(
        defaults(template)
    )


def test_what_prefect_makes_of_defaults_and_required_fields_has_no_placeholder_left(template):
    required = {
        name: EXAMPLES.get(name, f"a-{name}") for name in template["variables"].get("required", [])
    }
    values = defaults(template) | required
    validate(values, template["variables"])  # the defaults have the types that the schema says
    made = json.dumps(apply_values(template["job_configuration"], values))
    assert not re.findall(r"\{\{.*?\}\}", made)
    for value in required.values():
        assert json.dumps(value) in made


def test_runs_have_the_settings_that_they_have_in_kubernetes(template):
    objects = yaml.safe_load_all((INFRA / "k8s" / "settings.yaml").read_text(encoding="utf-8"))
    of_runs = next(item["data"] for item in objects if item["metadata"]["name"] == "run")
    replicas = yaml.safe_load((INFRA / "k8s" / "multi-node.yaml").read_text(encoding="utf-8"))
    launcher = replicas["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]
    environment = {item["name"]: item.get("value") for item in launcher["containers"][0]["env"]}
    settings = defaults(template)["env"]
    for name in (
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY",
        "PREFECT_CLIENT_MAX_RETRIES",
        "MLFLOW_TRACKING_USERNAME",
        "RLHF_ALLOWED_ROOTS",
    ):
        assert settings[name] == environment[name], name
    assert settings["RLHF_DEVICE_LIMITS"] == of_runs["RLHF_DEVICE_LIMITS"] == "none"
