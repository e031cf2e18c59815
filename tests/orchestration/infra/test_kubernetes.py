"""infra/k8s against Kubernetes' published schemas and a pod made by Prefect's worker, offline."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from control_environment import python_of_commands, with_platform

from tasks.mirror.remote import VARIABLE as REMOTE_VARIABLE
from tasks.tracking.client import PAGE_VARIABLE

K8S = Path(__file__).resolve().parents[3] / "infra" / "k8s"
PROGRAM = K8S / "pools" / "pools.py"
MADE = runpy.run_path(str(PROGRAM))
POOLS = {name: MADE["pool"](name) for name in MADE["CLASSES"]}
GPUS = {"cpu": 0, "gpu": 1, "8gpu": 8}
KUSTOMIZATION = yaml.safe_load((K8S / "kustomization.yaml").read_text())
OBJECTS = [
    item
    for name in KUSTOMIZATION["resources"]
    for item in yaml.safe_load_all((K8S / name).read_text())
]
MPI_JOB = yaml.safe_load((K8S / "multi-node.yaml").read_text())
VERSIONS = ("1.31", "1.37")


def name_of(item: dict) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def strictly_valid(item: dict, version: str = VERSIONS[-1]) -> None:
    kubernetes_validate.validate(item, version, strict=True)


def kind(name: str) -> list[dict]:
    return [item for item in OBJECTS if item["kind"] == name]


def pods() -> dict[str, dict]:
    """Return every pod spec by the name of what starts it."""
    found = {name_of(item): item["spec"]["template"]["spec"] for item in kind("Deployment")}
    replicas = MPI_JOB["spec"]["mpiReplicaSpecs"]
    return found | {
        f"MPIJob/{role}": replica["template"]["spec"] for role, replica in replicas.items()
    }


def launcher() -> dict:
    return MPI_JOB["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]


RENDER = """
import asyncio, json, sys, uuid
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

# asked only for the blocks that a template names: these name none
client = PrefectClient("http://127.0.0.1:1/api")

async def render(template, values):
    make = KubernetesWorkerJobConfiguration.from_template_and_values
    configuration = await make(template, values, client=client)
    run = FlowRun(id=uuid.UUID(int=1), name="gentle-otter", flow_id=uuid.UUID(int=2))
    configuration.prepare_for_flow_run(run)
    return {"job": configuration.job_manifest, "wait": configuration.pod_watch_timeout_seconds}

pools = json.loads(sys.stdin.read())
print(json.dumps({name: asyncio.run(render(*pair)) for name, pair in pools.items()}))
"""
CHANGED = {
    "priority": "rlhf-urgent",
    "node_selector": {"zone": "b"},
    "shared_memory": "2Gi",
    "cpu": "2",
    "memory": "4Gi",
    "env": {"RLHF_DEBUG": "1"},
    "image": "rlhf:0123abc",
}


@pytest.fixture(scope="module")
def rendered() -> dict[str, dict]:
    """Make the Job of each pool as Prefect's worker does.

    Under a pool's name with its defaults, under name + '*' with values of a deployment.
    """
    wanted = {name: [pool, {}] for name, pool in POOLS.items()} | {
        f"{name}*": [pool, CHANGED] for name, pool in POOLS.items()
    }
    command = [python_of_commands(), "-c", RENDER]
    done = subprocess.run(
        command, input=json.dumps(wanted), env=with_platform(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def job_of(rendered: dict, pool: str) -> dict:
    """Return the Job without two fields that Prefect's worker wants inside the pod.

    Kubernetes has none there and ignores them.
    """
    job = json.loads(json.dumps(rendered[pool]["job"]))
    for misplaced in ("completions", "parallelism"):
        assert job["spec"]["template"]["spec"].pop(misplaced) == job["spec"][misplaced] == 1
    return job


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("item", OBJECTS, ids=name_of)
def test_every_object_is_valid(item, version):
    strictly_valid(item, version)


def test_an_object_with_a_misspelt_field_is_found():
    item = json.loads(json.dumps(kind("Deployment")[0]))
    item["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        strictly_valid(item)


def test_the_kustomization_names_every_file_and_no_object_twice():
    files = {path.name for path in K8S.glob("*.yaml")} - {"kustomization.yaml", "multi-node.yaml"}
    assert set(KUSTOMIZATION["resources"]) == files
    names = [name_of(item) for item in OBJECTS]
    assert len(names) == len(set(names))


def test_there_is_a_pool_for_each_resource_class():
    assert set(POOLS) == set(GPUS)
    served = {pod["containers"][0]["args"][2] for name, pod in pods().items() if "/worker-" in name}
    assert served == {f"rlhf-{name}" for name in POOLS}


def test_the_files_for_prefect_hold_the_template_of_their_class(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "pools")], capture_output=True, text=True
    )
    files = sorted((tmp_path / "pools").iterdir())
    assert sorted(done.stdout.split()) == [str(file) for file in files]
    assert {file.stem: json.loads(file.read_text()) for file in files} == POOLS


def test_the_pools_differ_in_the_figures_of_their_machines_alone():
    """GPUs are limits and tolerations; all else is defaults of the form's fields."""

    def without_figures(made: dict) -> dict:
        made = json.loads(json.dumps(made))
        for field in made["variables"]["properties"].values():
            assert field.pop("default", None) != ""
        del made["variables"]["description"]
        pod = made["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
        pod["containers"][0]["resources"]["limits"].pop("nvidia.com/gpu", None)
        pod.pop("tolerations", None)
        return made

    cpu, *others = (without_figures(made) for made in POOLS.values())
    assert all(other == cpu for other in others)


@pytest.mark.parametrize("pool", POOLS)
def test_the_page_has_the_figures_of_each_pool(pool):
    machine, page = MADE["CLASSES"][pool], (K8S.parent / "docs/operate/kubernetes.md").read_text()
    figures = [machine.cpu, machine.memory, machine.gpus, machine.shared_memory]
    cells = [str(figure).replace("Gi", " GiB") for figure in figures]
    assert f"| rlhf-{pool} | {' | '.join(cells)} | `rlhf/class={pool}` |" in page


@pytest.mark.parametrize("pool", POOLS)
def test_the_variables_are_a_json_schema_whose_defaults_it_accepts(pool):
    import jsonschema

    schema = POOLS[pool]["variables"]
    jsonschema.Draft202012Validator.check_schema(schema)
    defaults = {name: field["default"] for name, field in schema["properties"].items()}
    jsonschema.validate(defaults, schema)
    jsonschema.validate(defaults | CHANGED, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(defaults | {"backoff_limit": 3}, schema)


@pytest.mark.parametrize("pool", [*POOLS, *(f"{name}*" for name in POOLS)])
@pytest.mark.parametrize("version", VERSIONS)
def test_prefect_accepts_the_template_and_makes_a_valid_job_of_it(rendered, pool, version):
    strictly_valid(job_of(rendered, pool), version)


@pytest.mark.parametrize("pool", POOLS)
def test_no_placeholder_is_left(rendered, pool):
    assert "{{" not in json.dumps(rendered[pool])


@pytest.mark.parametrize("pool", POOLS)
def test_a_job_is_tried_once_and_prefect_alone_tries_again(rendered, pool):
    job = job_of(rendered, pool)
    assert (
        job["spec"]["backoffLimit"] == 0
        and job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    )
    environment = {
        item["name"]: item.get("value")
        for item in job["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"


@pytest.mark.parametrize("pool", POOLS)
def test_a_job_has_its_devices_its_shared_memory_and_its_nodes(rendered, pool):
    pod = job_of(rendered, pool)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"].get("nvidia.com/gpu", "0") == str(GPUS[pool])
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    (shm,) = (volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm")
    assert shm["medium"] == "Memory" and pod["nodeSelector"] == {"rlhf/class": pool}
    assert pod["priorityClassName"] in {item["metadata"]["name"] for item in kind("PriorityClass")}
    assert bool(pod.get("tolerations")) == bool(GPUS[pool])


@pytest.mark.parametrize("pool", POOLS)
def test_a_deployment_may_change_what_the_form_shows(rendered, pool):
    pod = job_of(rendered, f"{pool}*")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["priorityClassName"] == "rlhf-urgent" and pod["nodeSelector"] == {"zone": "b"}
    assert container["image"] == "rlhf:0123abc" and container["resources"]["requests"] == {
        "cpu": "2",
        "memory": "4Gi",
    }
    assert {"name": "RLHF_DEBUG", "value": "1"} in container["env"]
    assert container["resources"]["limits"].get("nvidia.com/gpu", "0") == str(GPUS[pool])


@pytest.mark.parametrize("pool", POOLS)
def test_a_run_has_the_devices_of_its_pod_and_links_that_people_can_follow(rendered, pool):
    (container,) = job_of(rendered, pool)["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": "run"}}]
    settings = {item["metadata"]["name"]: item["data"] for item in kind("ConfigMap")}
    (ingress,) = kind("Ingress")
    assert {settings["run"][name] for name in (PAGE_VARIABLE, "PREFECT_UI_URL")} == {
        f"https://{host}" for host in ingress["spec"]["tls"][0]["hosts"]
    }
    assert settings["prefect-server"]["PREFECT_UI_URL"] == settings["run"]["PREFECT_UI_URL"]
    # a limit by host name would be that of one pod
    assert settings["run"]["RLHF_DEVICE_LIMITS"] == "none"


def test_the_multi_node_launcher_holds_a_limit_of_its_own_and_takes_all_missed_runs_at_once():
    (container,) = launcher()["containers"]
    assert {"name": "RLHF_DEVICE_LIMITS", "value": "rlhf-multi-node"} in container["env"]
    assert "--limit" not in container["args"]
    assert (
        "global-concurrency-limit create rlhf-multi-node --limit 1"
        in (K8S.parent / "docs" / "operate" / "kubernetes.md").read_text()
    )


@pytest.mark.parametrize("pool", POOLS)
def test_a_secret_is_in_a_job_by_reference_only(rendered, pool):
    (container,) = job_of(rendered, pool)["spec"]["template"]["spec"]["containers"]
    (password,) = (item for item in container["env"] if item["name"] == "MLFLOW_TRACKING_PASSWORD")
    assert password == {
        "name": "MLFLOW_TRACKING_PASSWORD",
        "valueFrom": {"secretKeyRef": {"name": "rlhf", "key": "mlflow_worker_password"}},
    }
    worker = next(item for item in kind("ConfigMap") if item["metadata"]["name"] == "worker")[
        "data"
    ]
    assert worker["PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_NAME"] == "rlhf"


@pytest.mark.parametrize("pool", [*POOLS, "the multi-node launcher"])
def test_a_run_has_the_remote_and_its_keys_where_the_cluster_gives_them(rendered, pool):
    """Without the keys in the Secret there are no variables, and a role may give access."""
    pod = job_of(rendered, pool)["spec"]["template"]["spec"] if pool in POOLS else launcher()
    (container,) = pod["containers"]
    given = {item["name"]: item.get("valueFrom") for item in container["env"]}
    keys = {
        "AWS_ENDPOINT_URL": "remote_url",
        "AWS_ACCESS_KEY_ID": "remote_user",
        "AWS_SECRET_ACCESS_KEY": "remote_password",
    }
    page = (K8S.parent / "docs" / "operate" / "kubernetes.md").read_text()
    for name, key in keys.items():
        reference = {"name": "rlhf", "key": key, "optional": True}
        assert given[name] == {"secretKeyRef": reference} and f"`{key}`" in page
    assert container["envFrom"] == [{"configMapRef": {"name": "run"}}]
    (run,) = (item for item in kind("ConfigMap") if item["metadata"]["name"] == "run")
    assert run["data"][REMOTE_VARIABLE] == ""  # nowhere, until it is set


def test_models_go_to_the_object_store_in_parts():
    settings = {item["metadata"]["name"]: item["data"] for item in kind("ConfigMap")}
    for way in ("UPLOAD", "DOWNLOAD"):
        assert settings["run"][f"MLFLOW_ENABLE_PROXY_MULTIPART_{way}"] == "true"
    assert settings["mlflow"]["MLFLOW_PRESIGNED_DOWNLOAD_URL_TTL_SECONDS"] == "3600"


def test_no_secret_stands_in_the_folder():
    assert not kind("Secret")
    for item in kind("ConfigMap"):
        for key, value in item["data"].items():
            if not key.endswith("_SECONDS") and any(
                word in key
                for word in ("PASSWORD", "SECRET", "AUTH_STRING", "DATABASE", "STORE_URI", "_URL_")
            ):
                assert key.endswith(("_FILE", "_SECRET_NAME", "_SECRET_KEY")), key
                assert value.startswith("/etc/secrets/") or "SECRET_" in key


@pytest.mark.parametrize("name", [*pods(), *POOLS])
def test_a_pod_obeys_the_restricted_standard_and_has_no_token_that_it_does_not_need(rendered, name):
    pod = pods()[name] if name in pods() else job_of(rendered, name)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"] == {
        "type": "RuntimeDefault"
    }
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"requests", "limits"} <= set(container["resources"])
    assert pod["automountServiceAccountToken"] == name.startswith("Deployment/worker")
    accounts = {item["metadata"]["name"] for item in kind("ServiceAccount")}
    assert pod["serviceAccountName"] in accounts


def test_a_worker_may_start_and_watch_jobs_and_nothing_else():
    (role,) = kind("Role")
    assert {resource for rule in role["rules"] for resource in rule["resources"]} == {
        "jobs",
        "pods",
        "pods/log",
        "events",
    }
    assert not kind("ClusterRole") and not any("*" in str(rule) for rule in role["rules"])


def test_what_pods_refer_to_exists():
    volumes = [volume for pod in pods().values() for volume in pod["volumes"]]
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in volumes
        if "persistentVolumeClaim" in volume
    }
    assert claims <= {item["metadata"]["name"] for item in kind("PersistentVolumeClaim")}
    maps = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    maps |= {
        source["configMapRef"]["name"]
        for pod in pods().values()
        for source in pod["containers"][0].get("envFrom", [])
    }
    assert maps <= {item["metadata"]["name"] for item in kind("ConfigMap")}
    secrets = {volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
    assert secrets == {"rlhf"}


def test_a_service_leads_to_the_port_of_its_pods_and_the_ingress_to_a_service_with_tls():
    listening = {}
    for item in kind("Deployment"):
        for port in item["spec"]["template"]["spec"]["containers"][0].get("ports", []):
            listening[item["spec"]["template"]["metadata"]["labels"]["app"]] = (
                port["name"],
                port["containerPort"],
            )
    for service in kind("Service"):
        (port,) = service["spec"]["ports"]
        assert listening[service["spec"]["selector"]["app"]] == (port["targetPort"], port["port"])
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
    (ingress,) = kind("Ingress")
    rules = ingress["spec"]["rules"]
    assert set(ingress["spec"]["tls"][0]["hosts"]) == {rule["host"] for rule in rules}
    backends = {rule["http"]["paths"][0]["backend"]["service"]["name"] for rule in rules}
    assert backends == {service["metadata"]["name"] for service in kind("Service")}


@pytest.mark.parametrize("role", ["Launcher", "Worker"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_pods_of_the_multi_node_job_are_valid(role, version):
    template = MPI_JOB["spec"]["mpiReplicaSpecs"][role]["template"]
    strictly_valid(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role.lower()}} | template, version
    )


def test_the_multi_node_job_says_to_the_mpi_operator_what_it_understands():
    # The operator's v2beta1 definition is no part of Kubernetes' schemas: its fields, by hand.
    spec = MPI_JOB["spec"]
    assert MPI_JOB["apiVersion"] == "kubeflow.org/v2beta1" and MPI_JOB["kind"] == "MPIJob"
    assert set(spec) <= {
        "slotsPerWorker",
        "mpiImplementation",
        "sshAuthMountPath",
        "runPolicy",
        "mpiReplicaSpecs",
    }
    assert set(spec["runPolicy"]) <= {
        "backoffLimit",
        "cleanPodPolicy",
        "ttlSecondsAfterFinished",
        "activeDeadlineSeconds",
    }
    assert (
        spec["runPolicy"]["backoffLimit"] == 0
        and spec["mpiReplicaSpecs"]["Launcher"]["replicas"] == 1
    )
    worker = spec["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == str(spec["slotsPerWorker"])
