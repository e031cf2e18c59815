"""infra/compose.yaml is valid by the Compose specification, opens one port and has no password."""

import ast
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose
from control_environment import python_of_commands, with_platform

from tasks.mirror.remote import VARIABLE as REMOTE_VARIABLE
from tasks.stages.spec import ROOTS
from tasks.tracking.client import PAGE_VARIABLE

INFRA = Path(__file__).resolve().parents[3] / "infra"
FILE = INFRA / "compose.yaml"
TEXT = FILE.read_text()
VALUES = {"RLHF_SECRETS": "/secrets", "RLHF_DOMAIN": "example.org", "RLHF_VERSION": "0123abc"}
DATABASES = {"postgres", "redis", "object-store"}
# Read by libpq, botocore and several tools; PREFECT_... and MLFLOW_... are looked up in the
# installed packages.
COMMON = {
    "PGPASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "DO_NOT_TRACK",
}
FOREIGN = {
    "proxy": {"RLHF_DOMAIN"},
    "postgres": {"POSTGRES_PASSWORD_FILE", "POSTGRES_INITDB_ARGS"},
    "object-store": {"MINIO_ROOT_USER_FILE", "MINIO_ROOT_PASSWORD_FILE", "MINIO_BROWSER"},
}


def interpolated(text: str) -> dict:
    return yaml.safe_load(re.sub(r"\$\{(\w+)(:\?[^}]*)?\}", lambda match: VALUES[match[1]], text))


PLATFORM = interpolated(TEXT)
SERVICES = PLATFORM["services"]
REDIS_MODULES = {
    text
    for text in SERVICES["prefect-server"]["environment"].values()
    if text.startswith("prefect_redis.")
}
LASTING = {name: service for name, service in SERVICES.items() if service["restart"] != "no"}


def ours(service: dict) -> bool:
    return service["image"].startswith("rlhf:")


def test_the_file_is_valid():
    assert set(PyCompose.from_json(json.dumps(PLATFORM)).service_names()) == set(SERVICES)


@pytest.mark.parametrize(
    "wrong",
    [{"helthcheck": {}}, {"restart": "sometimes"}, {"ports": ["abc"]}, {"shm_size": "8 gigs"}],
)
def test_a_file_that_is_not_valid_is_found(wrong):
    broken = PLATFORM | {"services": SERVICES | {"worker": SERVICES["worker"] | wrong}}
    with pytest.raises(ValueError):
        PyCompose.from_json(json.dumps(broken))


def test_what_must_be_given_is_asked_for_by_name():
    assert (
        set(re.findall(r"\$\{(\w+):\?", TEXT)) == set(VALUES) == set(re.findall(r"\$\{(\w+)", TEXT))
    )


def test_only_the_proxy_has_an_open_port_and_it_speaks_tls():
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"proxy"}
    assert SERVICES["proxy"]["ports"] == ["443:443"]
    caddyfile = (INFRA / "compose" / "Caddyfile").read_text()
    assert "tls /run/secrets/tls_certificate /run/secrets/tls_key" in caddyfile
    sites = [
        line.split()[0]
        for line in caddyfile.splitlines()
        if line.endswith(" {") and line[0] not in "(\t"
    ]
    assert sites == ["http://:8080", "mlflow.{$RLHF_DOMAIN}", "prefect.{$RLHF_DOMAIN}"]
    assert all(
        "network_mode" not in service and not service.get("privileged")
        for service in SERVICES.values()
    )


def test_the_proxy_leads_to_ports_on_which_the_servers_listen():
    targets = set(re.findall(r"reverse_proxy (\S+)", (INFRA / "compose" / "Caddyfile").read_text()))
    ports = {
        SERVICES["mlflow"]["environment"]["MLFLOW_PORT"],
        SERVICES["prefect-server"]["environment"]["PREFECT_SERVER_API_PORT"],
    }
    assert targets == {"mlflow:5000", "prefect-server:4200"} and ports == {"5000", "4200"}


def test_databases_broker_and_object_store_are_on_the_inside_network_only():
    assert PLATFORM["networks"]["inside"] == {"internal": True}
    for name in DATABASES | {"mlflow", "prefect-server", "prefect-services"}:
        assert SERVICES[name]["networks"] == ["inside"], name


def test_the_object_store_is_reached_by_the_artifact_proxy_and_by_the_preparation_only():
    holders = {
        name
        for name, service in SERVICES.items()
        if "object_store_password" in service.get("secrets", [])
    }
    assert holders == {"object-store", "mlflow", "prepare"}
    assert SERVICES["mlflow"]["environment"]["MLFLOW_SERVE_ARTIFACTS"] == "true"


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_models_go_in_parts_to_an_object_store_that_the_workers_reach(name):
    for way in ("UPLOAD", "DOWNLOAD"):
        assert SERVICES[name]["environment"][f"MLFLOW_ENABLE_PROXY_MULTIPART_{way}"] == "true"
    mlflow, store = SERVICES["mlflow"], SERVICES["object-store"]
    assert mlflow["environment"]["MLFLOW_S3_ENDPOINT_URL"] == "http://object-store:9000"
    assert set(SERVICES[name]["networks"]) & set(store["networks"])


@pytest.mark.parametrize("name", LASTING)
def test_every_lasting_service_has_a_health_check_and_starts_again(name):
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL") and {"interval", "timeout", "retries"} <= set(
        check
    )
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_services_that_exist_and_can_be_healthy(name):
    for other, how in SERVICES[name].get("depends_on", {}).items():
        lasting = other in LASTING
        assert how["condition"] == (
            "service_healthy" if lasting else "service_completed_successfully"
        )


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_an_exact_tag(name):
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert "." not in image.split("/")[0] and re.search(r"\d", tag) and "latest" not in tag


@pytest.mark.parametrize("name", SERVICES)
def test_named_volumes_secrets_and_configs_are_declared(name):
    service = SERVICES[name]
    assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(
        PLATFORM["volumes"]
    )
    assert set(service.get("secrets", [])) <= set(PLATFORM["secrets"])
    assert {config["source"] for config in service.get("configs", [])} <= set(PLATFORM["configs"])


def test_whoever_keeps_data_keeps_it_in_a_named_volume():
    kept = {
        name: service["volumes"][0].split(":")[0]
        for name, service in SERVICES.items()
        if "volumes" in service
    }
    assert DATABASES | {"worker", "worker-gpu", "proxy"} == set(kept)


def test_mounted_files_exist_and_the_one_that_postgresql_runs_is_a_program():
    assert all((INFRA / config["file"]).exists() for config in PLATFORM["configs"].values())
    # Compose mounts a file as it is, without a mode of its own
    assert os.access(INFRA / "compose" / "databases.sh", os.X_OK)
    assert all(
        set(config) == {"source", "target"}
        for service in SERVICES.values()
        for config in service.get("configs", [])
    )
    assert (
        FILE.parent
        / SERVICES["mlflow"]["build"]["context"]
        / SERVICES["mlflow"]["build"]["dockerfile"]
    ).exists()


@pytest.mark.parametrize("name", SERVICES)
def test_a_secret_is_named_by_its_file_and_mounted_where_it_is_named(name):
    service = SERVICES[name]
    for key, value in service.get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|AUTH_STRING|_KEY|TOKEN", key):
            assert key.endswith("_FILE") and value.startswith("/run/secrets/"), key
        if value.startswith("/run/secrets/"):
            assert value.removeprefix("/run/secrets/") in service["secrets"], key
    for mention in re.findall(
        r"/run/secrets/(\w+)", json.dumps([service.get("command"), service.get("healthcheck")])
    ):
        assert mention in service["secrets"]


def test_the_broker_takes_its_password_from_standard_input_and_replaces_the_shell(tmp_path):
    (tmp_path / "redis_password").write_text("it's secret")
    (tmp_path / "docker-entrypoint.sh").write_text('#!/bin/sh\necho "$$ $*"\ncat\n')
    (tmp_path / "docker-entrypoint.sh").chmod(0o755)
    words = [
        word.replace("$$", "$").replace("/run/secrets", str(tmp_path))
        for word in SERVICES["redis"]["command"]
    ]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process:
        said = process.communicate()[0]
    # no shell stands before it
    assert said.startswith(f"{process.pid} redis-server -\nrequirepass it's secret\n")
    assert "secret" not in json.dumps(words).replace("/run/secrets", "").replace(
        "redis_password", ""
    )


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_of_missed_runs_of_a_schedule_a_worker_takes_all_so_that_one_runs(name):
    assert "--limit" not in SERVICES[name]["command"]


def test_the_pools_and_device_limits_that_workers_name_are_made():
    tree = ast.parse((INFRA / "compose" / "prepare.py").read_text())
    (made,) = [node for node in tree.body if ast.unparse(node).startswith(("(BUCKET,", "BUCKET,"))]
    _, _, pools, devices = ast.literal_eval(made.value)
    workers = [SERVICES[name] for name in ("worker", "worker-gpu")]
    assert {worker["command"][2] for worker in workers} == set(pools)
    assert {worker["environment"]["RLHF_DEVICE_LIMITS"] for worker in workers} == set(devices)


def test_links_lead_to_the_names_that_the_proxy_serves():
    for name in ("worker", "worker-gpu"):
        assert SERVICES[name]["environment"][PAGE_VARIABLE] == "https://mlflow.example.org"
    for name in ("worker", "worker-gpu", "prefect-server", "prefect-services"):
        assert SERVICES[name]["environment"]["PREFECT_UI_URL"] == "https://prefect.example.org"


def test_the_file_for_a_remote_gives_the_workers_the_bucket_and_its_keys():
    """Compose merges maps by key and adds to lists."""
    text = (INFRA / "compose" / "remote.yaml").read_text()
    given = re.sub(r"\$\{\w+:[?-]([^}]*)\}", r"\1", text)  # the hint, or the default
    more = yaml.safe_load(given.replace("${RLHF_SECRETS}", "/secrets"))
    assert set(more["services"]) == {"worker", "worker-gpu"}
    for name, added in more["services"].items():
        assert set(added) == {"environment", "secrets"}
        environment = SERVICES[name]["environment"] | added["environment"]
        assert {REMOTE_VARIABLE, "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"} <= set(environment)
        named = {value for value in added["environment"].values() if value.startswith("/run/")}
        assert named == {f"/run/secrets/{secret}" for secret in added["secrets"]}
        secrets = [*SERVICES[name]["secrets"], *added["secrets"]]
        worker = SERVICES[name] | {"environment": environment, "secrets": secrets}
        declared = PLATFORM["secrets"] | more["secrets"]
        assert set(secrets) <= set(declared)
        merged = PLATFORM | {"services": SERVICES | {name: worker}, "secrets": declared}
        assert name in PyCompose.from_json(json.dumps(merged)).service_names()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == {REMOTE_VARIABLE, "RLHF_REMOTE_URL"}


def test_no_address_holds_a_password():
    texts = [
        path.read_text()
        for path in (INFRA / "compose").iterdir()
        if path.suffix in ("", ".ini", ".py")
    ] + [TEXT]
    assert not [found for text in texts for found in re.findall(r"\w+://[^/\s@:]*:[^/\s@]+@", text)]


def mlflow_names() -> set[str]:
    from mlflow import environment_variables
    from mlflow.cli import server

    variables = {
        value.name
        for value in vars(environment_variables).values()
        if hasattr(value, "name") and hasattr(value, "get")
    }
    return variables | {option.envvar for option in server.params if option.envvar}


def prefect_names() -> set[str]:
    """Return the variables that Prefect and prefect-redis read.

    prefect-redis is beside the environment, since Prefect imports what it finds.
    """
    code = f"""
import importlib, json
for module in {sorted(REDIS_MODULES)}:
    importlib.import_module(module)
from prefect.settings.legacy import _get_settings_fields
from prefect.settings import Settings
from prefect_redis.client import RedisMessagingSettings
names = {{field.name.upper() for field in _get_settings_fields(Settings).values()}}
redis = RedisMessagingSettings.model_fields
names |= {{"PREFECT_REDIS_MESSAGING_" + name.upper() for name in redis}}
print(json.dumps(sorted(names)))
"""
    command = [python_of_commands(), "-c", code]
    done = subprocess.run(command, env=with_platform(), capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.fixture(scope="module")
def read() -> set[str]:
    """Return every variable that MLflow and Prefect read."""
    return COMMON | {ROOTS, PAGE_VARIABLE, "RLHF_DEVICE_LIMITS"} | mlflow_names() | prefect_names()


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_one_that_the_program_reads(name, read):
    service = SERVICES[name]
    given = set(service.get("environment", {}))
    if ours(service):
        unknown = {key.removesuffix("_FILE") for key in given} - read
        assert unknown <= ({"RLHF_ACCOUNT_PASSWORD"} if name == "prepare" else set())
    else:
        assert given <= FOREIGN.get(name, set())


def test_a_misspelt_variable_would_be_found(read):
    assert len(REDIS_MODULES) == 3  # imported where `read` is made
    assert (
        not {"PREFECT_SERVER_DATABSE_HOST", "MLFLOW_ALLOWED_HOSTS", "PREFECT_MESSAGE_BROKER"} & read
    )


def test_the_api_server_runs_no_services_and_one_process_runs_them_all():
    commands = {name: service.get("command") for name, service in SERVICES.items()}
    assert commands["prefect-server"] == ["prefect", "server", "start", "--no-services"]
    assert commands["prefect-services"] == ["prefect", "server", "services", "start"]
    shared = ("DATABASE", "REDIS", "MESSAGING", "DOCKET")
    server, services = (
        SERVICES[name]["environment"] for name in ("prefect-server", "prefect-services")
    )
    for key in server:
        if (
            any(word in key for word in shared)
            and key != "PREFECT_SERVER_DATABASE_MIGRATE_ON_START"
        ):
            assert server[key] == services[key]


def test_mlflow_asks_for_an_account_and_lets_a_new_one_only_read():
    assert SERVICES["mlflow"]["command"] == ["mlflow", "server", "--app-name", "basic-auth"]
    settings = (INFRA / "compose" / "basic_auth.ini").read_text()
    assert "default_permission = READ" in settings and "admin_password" not in settings


def make_secrets(folder: Path, *words: str) -> dict[str, str]:
    subprocess.run([str(INFRA / "compose" / "secrets.sh"), str(folder), *words], check=True)
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_secrets_are_made_once_random_and_complete(tmp_path):
    first = make_secrets(tmp_path / "a", "--self-signed", "example.org")
    assert set(first) >= {Path(secret["file"]).name for secret in PLATFORM["secrets"].values()}
    assert make_secrets(tmp_path / "a", "--self-signed", "example.org") == first
    other = make_secrets(tmp_path / "b")
    hidden = {name for name in other if name != "object_store_user"}
    assert all(first[name] != other[name] and len(other[name]) >= 32 for name in hidden)
    assert len({other[name] for name in hidden}) == len(hidden)
    assert (
        first["redis_password"] in first["redis_url"]
        and first["prefect_password"] in first["prefect_auth"]
    )
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0
