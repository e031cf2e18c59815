"""infra/helm: values for Prefect's published charts that give the set-up of infra/k8s.

Helm is not needed here, and does not run: the keys and their types are compared with those that
the charts' values files and schemas name, and the values with the objects of infra/k8s.
"""

import re
from pathlib import Path

import pytest
import yaml

from flows.platform.doctor_packages import read_lock

INFRA = Path(__file__).resolve().parents[3] / "infra"
HELM, K8S = INFRA / "helm", INFRA / "k8s"
PAGE = (INFRA / "docs" / "operate" / "kubernetes.md").read_text(encoding="utf-8")
SERVER, WORKER = "prefect-server", "prefect-worker"
VALUES = {
    name: yaml.safe_load((HELM / f"{name}.yaml").read_text(encoding="utf-8"))
    for name in (SERVER, WORKER)
}
OVERLAY = yaml.safe_load((HELM / "kustomization.yaml").read_text(encoding="utf-8"))
OBJECTS = [
    item
    for file in K8S.glob("*.yaml")
    for item in yaml.safe_load_all(file.read_text(encoding="utf-8"))
]

# The keys that both charts have under a pod, as github.com/PrefectHQ/prefect-helm names them in
# charts/*/values.yaml, values.schema.json and tests; chart versions after 2025.1.28.
POD = {
    "priorityClassName": str,
    "extraEnvVarsCM": str,
    "podLabels": dict,
    "resources.requests.cpu": str,
    "resources.requests.memory": str,
    "resources.limits.cpu": str,
    "resources.limits.memory": str,
    "podSecurityContext.seccompProfile.type": str,
    "containerSecurityContext.capabilities.drop": list,
}
PROBES = {"livenessProbe.enabled": bool, "readinessProbe.enabled": bool}
ACCESS = {"basicAuth.enabled": bool, "basicAuth.existingSecret": str}
ACCOUNT = {"serviceAccount.create": bool, "serviceAccount.name": str}


def below(prefix: str, keys: dict[str, type]) -> dict[str, type]:
    return {f"{prefix}.{key}": kind for key, kind in keys.items()}


KNOWN = {
    SERVER: {
        "fullnameOverride": str,
        "global.prefect.image.repository": str,
        "global.prefect.image.prefectTag": str,
        "global.prefect.env": list,
        **below("server", POD | PROBES | ACCESS),
        "server.replicaCount": int,
        "server.uiConfig.prefectUiApiUrl": str,
        "backgroundServices.runAsSeparateDeployment": bool,
        **below("backgroundServices", POD | ACCOUNT),
        **ACCOUNT,
        "ingress.enabled": bool,
        "secret.create": bool,
        "secret.name": str,
        "postgresql.enabled": bool,
        "redis.enabled": bool,
    },
    WORKER: {
        "fullnameOverride": str,
        "worker.image.repository": str,
        "worker.image.prefectTag": str,
        "worker.replicaCount": int,
        "worker.apiConfig": str,
        "worker.selfHostedServerApiConfig.apiUrl": str,
        **below("worker.selfHostedServerApiConfig", ACCESS),
        "worker.config.workPool": str,
        "worker.config.type": str,
        "worker.config.installPolicy": str,
        "worker.config.http2": bool,
        "worker.config.baseJobTemplate.configuration": str,
        "worker.config.baseJobTemplate.name": str,
        **below("worker", POD),
        "worker.livenessProbe.enabled": bool,
        "worker.initContainer.containerSecurityContext.capabilities.drop": list,
        **ACCOUNT,
        "role.create": bool,
        "rolebinding.create": bool,
    },
}
OPEN = {"server.podLabels"}  # whose own keys are free


def leaves(values: dict, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        deeper = isinstance(value, dict) and name not in OPEN
        found |= leaves(value, f"{name}.") if deeper else {name: value}
    return found


def of_kind(kind: str) -> dict[str, dict]:
    return {item["metadata"]["name"]: item for item in OBJECTS if item["kind"] == kind}


def container(deployment: str) -> dict:
    (found,) = of_kind("Deployment")[deployment]["spec"]["template"]["spec"]["containers"]
    return found


@pytest.mark.parametrize("chart", VALUES)
def test_every_value_is_one_that_the_chart_reads_and_has_its_type(chart):
    for key, value in leaves(VALUES[chart]).items():
        assert type(value) is KNOWN[chart].get(key), key


def test_what_the_commands_set_is_read_by_the_chart_and_made_for_every_pool():
    command = PAGE.partition("helm upgrade --install worker-$class")[2].partition("done")[0]
    named = re.findall(r"--set(?:-file)? ([\w.]+)=(\S+)", command)
    assert dict(named) == {
        "fullnameOverride": "worker-$class",
        "worker.config.workPool": "rlhf-$class",
        "worker.config.baseJobTemplate.name": "worker-$class-template",  # one by default
        "worker.config.baseJobTemplate.configuration": "build/pools/$class.json",
    }
    assert {key for key, _ in named} <= set(KNOWN[WORKER])
    classes = re.findall(r"for class in ([\w ]+); do", PAGE)
    assert classes and set(classes) == {"cpu gpu 8gpu"}
    workers = {name for name in of_kind("Deployment") if name.startswith("worker-")}
    assert workers == {f"worker-{name}" for name in classes[0].split()}


def test_the_images_are_of_the_locked_release():
    locked = read_lock(INFRA / "requirements" / "control.txt")["prefect"]
    assert VALUES[SERVER]["global"]["prefect"]["image"]["prefectTag"] == f"{locked}-python3.11"
    assert VALUES[WORKER]["worker"]["image"]["prefectTag"] == f"{locked}-python3.11-kubernetes"


@pytest.mark.parametrize(
    ("chart", "part", "deployment"),
    [
        (SERVER, "server", "prefect-server"),
        (SERVER, "backgroundServices", "prefect-services"),
        (WORKER, "worker", "worker-cpu"),
    ],
)
def test_a_chart_makes_the_pods_of_the_folder(chart, part, deployment):
    values, made = VALUES[chart][part], of_kind("Deployment")[deployment]["spec"]
    pod, ours = made["template"]["spec"], container(deployment)
    assert values["resources"]["requests"] == ours["resources"]["requests"]
    assert values["resources"]["limits"]["memory"] == ours["resources"]["limits"]["memory"]
    assert values["priorityClassName"] == pod["priorityClassName"]
    assert ours["envFrom"] == [{"configMapRef": {"name": values["extraEnvVarsCM"]}}]
    assert values.get("replicaCount", 1) == made["replicas"]
    account = VALUES[chart]["serviceAccount"] | values.get("serviceAccount", {})
    assert account == {"create": False, "name": pod["serviceAccountName"]}
    drop = ours["securityContext"]["capabilities"]
    assert values["containerSecurityContext"]["capabilities"] == drop


def test_secrets_are_named_by_reference_and_the_page_says_which_keys_they_need():
    references = VALUES[SERVER]["global"]["prefect"]["env"]
    keys = {item["valueFrom"]["secretKeyRef"]["key"] for item in references}
    assert all(set(item) == {"name", "valueFrom"} for item in references)
    named = {item["valueFrom"]["secretKeyRef"]["name"] for item in references}
    named |= {VALUES[SERVER]["secret"]["name"]}
    server, worker = VALUES[SERVER]["server"], VALUES[WORKER]["worker"]
    for part in (server, worker["selfHostedServerApiConfig"]):
        named |= {part["basicAuth"]["existingSecret"]}
    assert named == {"rlhf"}
    for key in keys | {"auth-string", "connection-string"}:  # the last two by the charts' names
        assert f"`{key}`" in PAGE, key


def test_the_ingress_and_the_policies_find_what_the_chart_makes():
    name = VALUES[SERVER]["fullnameOverride"]
    (ingress,) = of_kind("Ingress").values()
    backends = {
        path["backend"]["service"]["name"]: path["backend"]["service"]["port"]
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    assert backends[name] == {"number": 4200}  # the chart has another name for the port
    labels = VALUES[SERVER]["server"]["podLabels"]
    policy = of_kind("NetworkPolicy")["from-the-ingress"]["spec"]["podSelector"]
    assert labels["app"] in policy["matchExpressions"][0]["values"]
    worker = VALUES[WORKER]["worker"]["selfHostedServerApiConfig"]
    assert worker["apiUrl"] == f"http://{name}:4200/api"
    page = of_kind("ConfigMap")["prefect-server"]["data"]["PREFECT_SERVER_UI_API_URL"]
    assert VALUES[SERVER]["server"]["uiConfig"]["prefectUiApiUrl"] == page


def test_the_overlay_leaves_out_what_the_charts_install_and_nothing_else():
    assert OVERLAY["resources"] == ["../k8s"]
    deleted = {
        patch["target"]["kind"]: set(patch["target"]["name"].split("|"))
        for patch in OVERLAY["patches"]
    }
    assert all(yaml.safe_load(patch["patch"])["$patch"] == "delete" for patch in OVERLAY["patches"])
    prefects = {name for name in of_kind("Deployment") if name != "mlflow"}
    assert deleted == {"Deployment": prefects, "Service": {"prefect-server"}}
