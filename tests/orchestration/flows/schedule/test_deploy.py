"""Deployments, triggers, notifications and limits: on a real platform where the claim needs one."""

import contextlib
import http.server
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from campaigns import opened_campaign
from command_line import RLHF
from local_platform import FINAL, Platform, write_recipe

from flows.pipeline import pipeline
from flows.platform.pages import free_port
from flows.schedule import automations, deploy, watch
from flows.schedule.deploy import DeploymentOptions, build_deployments
from flows.schedule.labels import WantedLabels, with_labels
from rlhf_core.buckets import file_system
from rlhf_core.config import load_recipe
from rlhf_core.errors import BadInput
from tasks.execution import concurrency
from tasks.labels.trigger import TriggerFile, TriggerMemory, UsedCampaign
from tasks.records.workspace import Workspace


def problems(parameters: dict, schema: dict, **options) -> list:
    """Return the errors that Prefect's server finds."""
    from prefect.utilities.schema_tools.validation import validate

    return validate(parameters, schema, **options)


# what needs no server


@pytest.mark.parametrize(
    "settings", [[], ["registry.approval.required=true"], ["ppo.beta=0.2", "gates={}"]]
)
@pytest.mark.parametrize("complete", [True, False])
def test_a_recipe_passes_the_schema_that_prefect_checks_it_with(settings, complete):
    (made,) = build_deployments(load_recipe("quickstart", settings), DeploymentOptions("x", "pool"))
    schema = made._parameter_openapi_schema.model_dump(exclude_unset=True)
    assert not problems(
        made.parameters, schema, ignore_required=not complete, allow_none_with_default=True
    )


@pytest.mark.parametrize(
    "change", [{"seed": -1}, {"ppo": {"beta": "much"}}, {"ppo": {"betta": 0.1}}, {"model": {}}]
)
def test_what_a_recipe_file_may_not_say_is_refused_by_the_form_too(change):
    (made,) = build_deployments(load_recipe("quickstart"), DeploymentOptions("x", "pool"))
    schema = made._parameter_openapi_schema.model_dump(exclude_unset=True)
    assert problems({"recipe": made.parameters["recipe"] | change}, schema)


def test_the_form_names_bounds_and_meanings():
    definitions = build_deployments(load_recipe("quickstart"), DeploymentOptions("x", "pool"))[
        0
    ]._parameter_openapi_schema.definitions
    beta = definitions["PPO"]["properties"]["beta"]
    assert beta["description"] and beta["default"] == 0.05 and beta["minimum"] == 0


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"cron": "0 99 * * 0"}, "--cron '0 99 \\* \\* 0' is not valid"),
        ({"cron": "0 0 2 * * *"}, r"has 6 fields; expected five .* '0 2 \* \* \*'"),
        ({"cron": "0 0 2 * * * 2030"}, "has 7 fields; expected five"),
        ({"cron": "0 2 31 2 *"}, "--cron '0 2 31 2 \\*' has no date"),
        ({"cron": "0 2 * * 0", "timezone": "Mars"}, "--timezone 'Mars' is not valid"),
        ({"on_promotion": ("quickstart-reward",)}, "would start itself again"),
        ({"on_data": ()}, "reads no local data file"),
        ({"on_data": ("/nowhere",)}, "--watch /nowhere: no such file"),
        ({"on_labels": WantedLabels("week-1")}, "no labelling campaign is named 'week-1'"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused(home, wanted, said):
    with pytest.raises(BadInput, match=said):
        build_deployments(load_recipe("quickstart"), DeploymentOptions("x", "pool", **wanted))


def test_a_deployment_on_labels_looks_for_them_with_its_recipe(home):
    wanted = WantedLabels("week-*", 150, 0.4)
    options = DeploymentOptions("weekly", "pool", every=60, on_labels=wanted)
    run, looking = build_deployments(load_recipe("quickstart"), options)
    assert (looking.name, looking.flow_name) == ("weekly-labels", "rlhf-labels")
    values = {"campaigns": "week-*", "min_new": 150, "min_alpha": 0.4, "deployment": "weekly"}
    assert looking.parameters == run.parameters | values


def test_a_run_on_labels_trains_on_all_that_the_deployment_has_used():
    used = [UsedCampaign(id=name, name=name, file=f"/{name}.jsonl") for name in ("w1", "w2")]
    recipe = load_recipe("quickstart", ["data.new_comparisons=mine.jsonl"])
    found = with_labels(recipe, TriggerMemory().using(used))
    paths = [source.path for source in found.data.new_comparisons]
    assert paths == ["mine.jsonl", "/w1.jsonl", "/w2.jsonl"]
    assert found.model_copy(update={"data": recipe.data}) == recipe


def test_runs_of_a_deployment_do_not_overlap_and_do_not_queue():
    (made,) = build_deployments(
        load_recipe("quickstart"), DeploymentOptions("x", "pool", cron="0 2 * * 0")
    )
    assert (
        made.concurrency_limit == 1
        and made.concurrency_options.collision_strategy.value == "CANCEL_NEW"
    )


@pytest.mark.parametrize("paused", [True, False])
def test_a_paused_deployment_starts_by_no_event_either(paused):
    (made,) = build_deployments(
        load_recipe("quickstart"),
        DeploymentOptions("x", "pool", paused=paused, on_promotion=("other-reward",)),
    )
    assert [trigger.enabled for trigger in made.triggers] == [not paused]


def test_the_digest_of_watched_data_is_of_their_bytes(tmp_path):
    (tmp_path / "a.jsonl").write_text("1")
    first = watch.digest([tmp_path], "--watch")
    os.utime(tmp_path / "a.jsonl", (1, 1))
    assert watch.digest([tmp_path], "--watch") == first
    (tmp_path / "b.jsonl").write_text("2")
    assert watch.digest([tmp_path], "--watch") != first


def test_a_pattern_is_watched_for_new_files_that_it_matches(tmp_path):
    (tmp_path / "a.jsonl").write_text("1")
    places = watch.watched(load_recipe("quickstart"), [str(tmp_path / "*.jsonl")])
    first = watch.digest(places, "--watch")
    (tmp_path / "b.csv").write_text("2")
    assert watch.digest(places, "--watch") == first
    (tmp_path / "b.jsonl").write_text("2")
    assert watch.digest(places, "--watch") != first
    with pytest.raises(BadInput, match="no such file or folder"):
        watch.watched(load_recipe("quickstart"), [str(tmp_path / "*.parquet")])


def test_data_in_a_bucket_are_watched_by_their_etags(s3, monkeypatch, home):
    s3.use(monkeypatch)
    files, folder = file_system("test", "s3://team/watched")
    files.pipe_file(f"{folder}/a.jsonl", b"a")
    places = watch.watched(load_recipe("quickstart"), [f"s3://{folder}/*.jsonl"])
    first = watch.digest(places, "--watch")
    files.pipe_file(f"{folder}/notes.txt", b"n")
    assert watch.digest(places, "--watch") == first
    files.pipe_file(f"{folder}/a.jsonl", b"b")
    assert watch.digest(places, "--watch") != first
    assert time.time() - 60 < watch._latest_change(places, "--watch") <= time.time() + 1
    assert not (home / "objects").exists()  # nothing was fetched
    options = DeploymentOptions("d", "pool", on_data=(f"s3://{folder}",))
    assert deploy.paths_of(options) == [f"s3://{folder}"]


@pytest.mark.parametrize(
    ("given", "visible", "expected"),
    [
        ("a, b", "", ["a", "b"]),
        ("", "", ["cpu"]),
        ("", "2,5", ["gpu-2", "gpu-5"]),
        ("none", "2,5", []),
    ],
)
def test_a_stage_holds_the_devices_that_it_sees(monkeypatch, given, visible, expected):
    monkeypatch.setenv("RLHF_DEVICE_LIMITS", given)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(concurrency, "has_cuda", lambda: bool(visible))
    host = f"rlhf-{socket.gethostname()}-"
    assert [name.removeprefix(host) for name in concurrency.device_limits()] == expected


@pytest.mark.parametrize(("given", "expected"), [("gpu", ["forwarded", "waits"]), ("none", [])])
def test_what_a_stage_left_is_forwarded_before_the_next_one_waits_for_devices(
    monkeypatch, given, expected
):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    happened: list[str] = []
    monkeypatch.setenv("RLHF_DEVICE_LIMITS", given)
    monkeypatch.setattr(
        concurrency, "reserved", lambda names: contextlib.nullcontext(happened.append("waits"))
    )
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}),
        concurrency.devices_reserved(lambda: happened.append("forwarded")),
    ):
        assert happened == expected


def pool(kind: str, template: dict):
    from prefect.client.schemas.objects import WorkPool

    return WorkPool(name="rlhf", type=kind, base_job_template=template)


def test_runs_of_a_process_pool_start_in_the_folder_that_was_asked_for_else_here(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    found = pool("process", {"variables": {"properties": {"working_dir": {"type": "string"}}}})
    assert [deploy._directory(found, asked) for asked in (None, "/opt/rlhf")] == [
        str(tmp_path),
        "/opt/rlhf",
    ]
    (made,) = build_deployments(
        load_recipe("quickstart"), DeploymentOptions("x", "pool", directory="/opt/rlhf")
    )
    assert made.job_variables == {"working_dir": "/opt/rlhf"}


@pytest.mark.parametrize("name", ["cpu", "gpu", "8gpu"])
def test_a_deployment_sets_no_variable_that_a_kubernetes_pool_does_not_know(name):
    program = Path(__file__).resolve().parents[4] / "infra" / "k8s" / "pools" / "pools.py"
    template = runpy.run_path(str(program))["pool"](name)
    assert (
        "working_dir" not in template["variables"]["properties"]
        and not template["variables"]["additionalProperties"]
    )
    found = pool("kubernetes", template)
    assert deploy._directory(found, None) is None
    with pytest.raises(BadInput, match="leave out --directory"):
        deploy._directory(found, "/data")
    (made,) = build_deployments(load_recipe("quickstart"), DeploymentOptions("x", "pool"))
    assert made.job_variables == {}


@pytest.mark.parametrize(
    "target", ["ftp://x", "https://", "slack-webhook", "/team", "slack-webhook/", ""]
)
def test_a_target_of_notifications_that_cannot_be_is_refused_before_anything_is_asked(target):
    with pytest.raises(BadInput, match="neither an http or https address nor a Prefect block"):
        automations.require_target(target)


@pytest.mark.parametrize("name", ["", " ", "a/b", "50%", "a\nb", " a", "x" * 201])
def test_a_name_that_prefect_does_not_take_is_refused(name):
    with pytest.raises(BadInput, match="cannot be a deployment's name; expected 1 to 200 char"):
        DeploymentOptions(name, "rlhf")


def test_a_name_in_any_alphabet_has_a_variable_for_its_data():
    assert DeploymentOptions("Größe 2", "rlhf").name == "Größe 2"
    assert watch.variable_of("Größe 2") == "rlhf_data_gr__e_2"


def test_without_a_server_it_says_so(tmp_path):
    unset = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | {
        "RLHF_HOME": str(tmp_path)
    }
    done = subprocess.run([*RLHF, "schedules"], capture_output=True, text=True, env=environment)
    assert (
        done.returncode == 2 and "there is no Prefect server: start one with rlhf up" in done.stderr
    )


# one platform for the rest


@contextlib.contextmanager
def hook(told: list):
    """An address that takes POST requests and keeps them."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret-token"
    server.shutdown()


@pytest.fixture(scope="module")
def platform(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("platform")
    recipe = write_recipe(folder, tiny_model)
    it = Platform(folder, str(recipe))
    try:
        names = ("--prefect-port", "--port", "--page-port")
        ports = [word for name in names for word in (name, str(free_port()))]
        up = json.loads(it.rlhf("up", *ports, "--json"))
        it.api = up["prefect_url"] + "/api"
        it.mlflow, it.worker = up["mlflow_url"], up["services"]["worker"]["owner"]["pid"]
        yield it
    finally:
        it.rlhf("down")


@pytest.mark.slow
def test_two_runs_of_a_deployment_at_once_are_one_run_which_waits_for_its_model(platform):
    platform.rlhf("deploy", platform.recipe, "--name", "twice", "--set", "registry.name=twice")
    slot = {"names": [concurrency.model_limit("twice")], "slots": 1}
    # another deployment of this model runs
    platform.post("v2/concurrency_limits/increment", mode="concurrency", **slot)
    for _ in range(2):
        platform.start("rlhf/twice", until="prepare")  # a local base model: nothing to prepare
    assert platform.ended("twice", 1) == ["Cancelled"]
    platform.post("v2/concurrency_limits/decrement", **slot)
    assert platform.ended("twice", 2) == ["Cancelled", "Completed"]
    assert "rlhf/twice" in platform.rlhf("schedules")


@pytest.mark.slow
def test_a_deployment_is_previewed_made_and_removed_with_what_belongs_to_it(platform):
    words = ["deploy", platform.recipe, "--name", "gone", "--cron", "0 2 * * 0", "--on-data"]
    words += ["--on-promotion", "other-policy", "--set", "registry.name=gone"]
    refused = [*words, "--notify", "slack-webhook/nobody"]

    def known() -> list[dict]:
        found = platform.post("deployments/filter") + platform.post("automations/filter")
        # the worker's polls change these
        polled = ("updated", "status", "last_polled")
        return [{key: each[key] for key in each if key not in polled} for each in found]

    before = known()
    for dry_run in ([], ["--dry-run"]):
        done = subprocess.run(
            [*RLHF, *refused, *dry_run], capture_output=True, text=True, env=platform.environment
        )
        assert done.returncode == 2 and "no Prefect block 'slack-webhook/nobody'" in done.stderr
    assert known() == before
    preview = json.loads(platform.rlhf(*words, "--dry-run", "--json"))
    assert known() == before
    assert [found["deployment"] for found in preview["deployments"]] == [
        "rlhf/gone",
        "rlhf-watch/gone-data",
    ]
    assert not any(found["replaces"] for found in preview["deployments"])
    assert preview["deployments"][0]["schedule"] == "0 2 * * 0 UTC"
    assert concurrency.model_limit("gone") in preview["limits"]
    platform.rlhf(*words)
    assert "would replace rlhf/gone: 0 2 * * 0 UTC" in platform.rlhf(*words, "--dry-run")
    names = {item["name"] for item in platform.post("automations/filter")}
    assert {"rlhf: promotion of other-policy", "rlhf: gone: data"} <= names
    assert "would remove: " in platform.rlhf("undeploy", "gone", "--dry-run")
    assert "rlhf/gone" in platform.rlhf("schedules")
    removed = json.loads(platform.rlhf("undeploy", "gone", "--json"))["removed"]
    assert sorted(removed) == ["rlhf-watch/gone-data", "rlhf/gone"]
    assert "gone" not in platform.rlhf("schedules", "--json")
    names = {item["name"] for item in platform.post("automations/filter")}
    assert not names & {"rlhf: promotion of other-policy", "rlhf: gone: data"}
    done = subprocess.run(
        [*RLHF, "undeploy", "gone"], capture_output=True, text=True, env=platform.environment
    )
    assert done.returncode == 2 and "there is no deployment 'gone' of this project" in done.stderr


@pytest.mark.slow
def test_a_cron_schedule_fires(platform):
    platform.rlhf(
        "deploy",
        platform.recipe,
        "--name",
        "minutely",
        "--cron",
        "* * * * *",
        "--set",
        "registry.name=cron",
    )
    assert platform.ended("minutely", 1) == ["Failed"]  # one row is not enough data: it did run
    platform.rlhf(
        "deploy", platform.recipe, "--name", "minutely", "--cron", "* * * * *", "--paused"
    )


@pytest.mark.slow
def test_a_failure_is_told_and_the_address_is_kept_secret(platform):
    with hook(platform.notifications) as url:
        platform.rlhf(
            "deploy",
            platform.recipe,
            "--name",
            "fails",
            "--set",
            "model.base=/nowhere",
            "--notify",
            url,
        )
        platform.start("rlhf/fails")
        told = platform.wait(
            lambda: [item for item in platform.notifications if item["occasion"] == "failed"]
        )
    assert "/nowhere" in told[0]["text"] and told[0]["subject"].startswith("tiny-")
    blocks = platform.post("block_documents/filter", include_secrets=False)
    assert "secret-token" not in json.dumps(blocks) + json.dumps(
        platform.post("automations/filter")
    )


@pytest.mark.slow
def test_a_run_of_the_worker_reads_no_file_outside_the_allowed_folders(platform):
    platform.rlhf(
        "deploy", platform.recipe, "--name", "outside", "--set", "data.comparisons=/etc/hostname"
    )
    platform.start("rlhf/outside")
    (run,) = platform.wait(
        lambda: [run for run in platform.runs("outside") if run["state"]["type"] in FINAL]
    )
    assert (
        run["state"]["type"] == "FAILED"
        and "data.comparisons leads to /etc/hostname, outside" in run["state"]["message"]
    )


@pytest.mark.slow
def test_every_occasion_is_told_with_a_link_to_the_page(platform):
    told: list = []
    with hook(told) as url:
        platform.rlhf(
            "deploy",
            platform.recipe,
            "--name",
            "told",
            "--set",
            "registry.name=told",
            "--notify",
            url,
        )
        flow = platform.post("flows/filter", flows={"name": {"any_": ["rlhf"]}})[0]["id"]
        occasions = {
            "refused by a gate": ("FAILED", "Refused"),
            "crashed": ("CRASHED", "Crashed"),
        } | {"failed": ("FAILED", "Failed"), "waiting for approval": ("PAUSED", "Paused")}
        for kind, name in occasions.values():
            run = platform.post("flow_runs/", flow_id=flow, name=f"a-{name}", tags=["rlhf"])["id"]
            for state in (
                {"type": "RUNNING"},
                {"type": kind, "name": name, "message": f"because {name}"},
            ):
                platform.post(f"flow_runs/{run}/set_state", state=state, force=True)
        code = (
            f"import os; os.environ['PREFECT_API_URL'] = {platform.api!r}\n"
            "from tasks.promotion import announce\n"
            "announce.publish(announce.PROMOTED, announce.model_resource('x-policy'),"
            " {'model': 'x', 'reason': 'better'})\n"
            "announce.publish(announce.LIVE, announce.model_resource('x-policy'),"
            " {'model': 'x', 'reason': 'Requests go to version 2 100% now.'})"
        )
        subprocess.run([sys.executable, "-c", code], check=True, env=platform.environment)
        platform.wait(lambda: len(told) >= len(occasions) + 2)
    by_occasion = {item["occasion"]: item for item in told}
    assert len(told) == len(by_occasion) == 6 and by_occasion["promoted"]["text"] == "better"
    assert "version 2" in by_occasion["served live by other versions"]["text"]
    for occasion, (_, name) in occasions.items():
        item = by_occasion[occasion]
        assert item["subject"] == f"a-{name}" and f"because {name}" in item["text"]
        assert f"{platform.api.removesuffix('/api')}/runs/flow-run/" in item["text"]


@pytest.mark.slow
def test_the_declarative_deployments_are_those_of_the_command(platform):
    root = Path(__file__).resolve().parents[4]
    environment = platform.environment | {"PREFECT_API_URL": platform.api}
    words = [
        "-m",
        "prefect",
        "--no-prompt",
        "deploy",
        "--all",
        "--prefect-file",
        "infra/prefect.yaml",
    ]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, cwd=root
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (expected,) = build_deployments(
        load_recipe("quickstart"), DeploymentOptions("x", "rlhf", "0 2 * * 0")
    )
    found = platform.ask("GET", "deployments/name/rlhf/weekly-quickstart").json()
    assert found["parameters"] == expected.parameters and found["tags"] == ["rlhf"]
    limit, options = found["global_concurrency_limit"], found["concurrency_options"]
    assert (limit["limit"], options["collision_strategy"]) == (1, "CANCEL_NEW")
    assert [(item["schedule"]["cron"], item["active"]) for item in found["schedules"]] == [
        ("0 2 * * 0", True)
    ]
    watching = platform.ask("GET", "deployments/name/rlhf-watch/weekly-quickstart-data").json()
    assert watching["parameters"]["recipe"] == expected.parameters["recipe"]
    automations = {item["name"]: item for item in platform.post("automations/filter")}
    for name, event in (("promotion", "rlhf.promoted"), ("data", "rlhf.data-changed")):
        automation = automations[f"weekly-quickstart: {name}"]
        assert not automation["enabled"] and automation["trigger"]["expect"] == [event]
    recipe = load_recipe(platform.recipe, ["registry.name=declared"]).model_dump(mode="json")
    for name in ("demonstrations", "comparisons"):
        recipe["data"][name]["path"] = str(platform.home / f"{name[0]}.jsonl")
    platform.start("rlhf/weekly-quickstart", recipe=recipe, until="prepare")
    assert platform.ended("weekly-quickstart", 1) == ["Completed"]
    told = [line["message"] for line in platform.post("logs/filter")]
    assert "Finished in state Completed()" in told  # on the page of its run


@pytest.mark.slow
def test_of_five_missed_runs_of_a_schedule_one_runs(platform):
    platform.rlhf("deploy", platform.recipe, "--name", "late", "--set", "registry.name=late")
    platform.ask("PATCH", "work_pools/rlhf", json={"is_paused": True})  # as when the worker is away
    try:
        for hours in range(5):
            due = f"2026-01-01T{hours:02}:00:00Z"
            platform.start(
                "rlhf/late",
                until="prepare",
                state={"type": "SCHEDULED", "state_details": {"scheduled_time": due}},
            )
    finally:
        platform.ask("PATCH", "work_pools/rlhf", json={"is_paused": False})
    assert platform.ended("late", 5) == ["Cancelled"] * 4 + ["Completed"]


@pytest.mark.slow
def test_recipes_are_served_without_a_work_pool_until_sigterm(platform):
    words = ["serve", platform.recipe, "--set", "registry.name=served"]
    environment = platform.environment | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*RLHF, *words], stdout=subprocess.PIPE, text=True, env=environment, cwd=platform.home
    )
    try:
        assert (
            "serving rlhf/tiny; run it now: prefect deployment run 'rlhf/tiny'"
            in process.stdout.readline()
        )
        platform.wait(
            lambda: httpx.get(f"{platform.api}/deployments/name/rlhf/tiny", timeout=60).is_success
        )
        platform.start("rlhf/tiny", until="prepare")
        assert platform.ended("tiny", 1) == ["Completed"]
        deployment = httpx.get(f"{platform.api}/deployments/name/rlhf/tiny", timeout=60).json()
        assert (
            deployment["work_pool_name"] is None
            and deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    twice = subprocess.run(
        [*RLHF, "serve", platform.recipe, platform.recipe],
        capture_output=True,
        text=True,
        env=environment,
        cwd=platform.home,
    )
    assert twice.returncode == 2 and "have the same name" in twice.stderr


@pytest.mark.slow
def test_a_notification_block_of_prefects_is_told(platform):
    told: list = []
    with hook(told) as url:
        code = (
            f"import os; os.environ['PREFECT_API_URL'] = {platform.api!r}\nfrom"
            " prefect.blocks.notifications import CustomWebhookNotificationBlock as"
            f" Block\nBlock(name='team', url={url!r}, json_data={{'about': '{{{{subject}}}}',"
            " 'text': '{{body}}'}).save('team')"
        )
        subprocess.run([sys.executable, "-c", code], check=True, env=platform.environment)
        words = (
            "deploy",
            platform.recipe,
            "--name",
            "block",
            "--set",
            "registry.name=block",
            "--set",
            "model.base=/nowhere",
        )
        platform.rlhf(*words, "--notify", "custom-webhook/team")
        platform.start("rlhf/block")
        item = platform.wait(lambda: told[:1])[0]
    assert item["about"] == "RLHF: failed" and "/nowhere" in item["text"]
    refused = subprocess.run(
        [*RLHF, *words, "--notify", "slack-webhook/nobody"],
        capture_output=True,
        text=True,
        env=platform.environment,
    )
    assert refused.returncode == 2 and "no Prefect block 'slack-webhook/nobody'" in refused.stderr


@pytest.mark.slow
def test_a_killed_run_of_a_deployment_is_started_once_more_by_reap_again(platform):
    platform.rlhf("deploy", platform.recipe, "--name", "again", "--set", "registry.name=again")
    device = {"names": concurrency.device_limits(), "slots": 1, "mode": "concurrency"}
    # somebody else's stage: the run waits inside its own
    platform.post("v2/concurrency_limits/increment", **device)
    run = platform.start("rlhf/again", until="validate")
    process = platform.wait(
        lambda: [p for p in processes_of(run) if "prefect.engine" in p.cmdline()]
    )[0]
    platform.wait(
        lambda: any(run in file.read_text() for file in (platform.home / "outbox").glob("*.json"))
    )
    process.kill()
    done = platform.wait(
        lambda: (out := platform.rlhf("reap", "--again")) and "to run again: tiny-" in out and out
    )
    assert "crashed: none" in done
    platform.post("v2/concurrency_limits/decrement", **device)
    # its lease
    platform.post(
        "v2/concurrency_limits/decrement",
        names=[concurrency.model_limit("again")],
        slots=1,
        mode="concurrency",
    )
    assert platform.ended("again", 1) == ["Failed"]  # one row is not enough data: it did run
    (found,) = platform.runs("again")
    assert (
        found["id"] == run and found["run_count"] == 2 and "validate" in found["state"]["message"]
    )


def processes_of(run: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                found.append(process)
    return found


@pytest.mark.slow
def test_new_data_start_a_run_and_old_ones_do_not(platform):
    words = ("--name", "ondata", "--on-data", "--every", "3600", "--set", "registry.name=ondata")
    platform.rlhf("deploy", platform.recipe, *words)
    platform.start("rlhf-watch/ondata-data", settled_seconds=0)
    assert platform.ended("ondata-data", 1) == ["Completed"] and platform.runs("ondata") == []
    with (platform.home / "c.jsonl").open("a") as file:
        file.write('{"prompt": "p2", "chosen": "c", "rejected": "r"}\n')
    platform.start("rlhf-watch/ondata-data", settled_seconds=0)
    platform.wait(lambda: platform.runs("ondata"))


@pytest.mark.slow
def test_enough_labels_start_one_run_that_trains_on_them(platform, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", platform.mlflow)
    workspace = Workspace(platform.home)
    made = opened_campaign(workspace, 4, "ann")
    words = ["--name", "onlabels", "--every", "3600", "--set", "registry.name=onlabels"]
    unknown = [*RLHF, "deploy", platform.recipe, *words, "--on-labels", "week-47"]
    done = subprocess.run(unknown, capture_output=True, text=True, env=platform.environment)
    assert done.returncode == 2 and "no labelling campaign is named 'week-47'" in done.stderr
    words += ["--on-labels", "week-48", "--min-new", "2"]
    platform.rlhf("deploy", platform.recipe, *words)
    made.answer("ann", most=1)
    platform.start("rlhf-labels/onlabels-labels")
    assert platform.ended("onlabels-labels", 1) == ["Completed"]
    assert platform.runs("onlabels") == []
    made.answer("ann", most=3)
    platform.start("rlhf-labels/onlabels-labels")
    (run,) = platform.wait(lambda: platform.runs("onlabels"))
    (source,) = run["parameters"]["recipe"]["data"]["new_comparisons"]
    assert len(Path(source["path"]).read_text().splitlines()) == 3
    assert made.folder.closed()["out"] == source["path"]
    platform.ended("onlabels-labels", 2)
    file = TriggerFile(workspace, "onlabels")
    memory = file.load()
    assert memory.run == run["id"]
    platform.ended("onlabels", 1)  # a run that goes on is waited for
    file.save(memory.model_copy(update={"run": None}))  # as of a look that was killed
    for count in (3, 4):
        platform.start("rlhf-labels/onlabels-labels")
        assert platform.ended("onlabels-labels", count) == ["Completed"] * count
    assert file.load().run == run["id"] and len(platform.runs("onlabels")) == 1


@pytest.mark.slow
def test_a_promotion_starts_the_deployments_that_wait_for_it(platform):
    platform.rlhf("deploy", platform.recipe, "--name", "onreward", "--on-promotion", "judge-reward")
    program = (
        "import os; os.environ['PREFECT_API_URL'] = %r\nfrom tasks.promotion import"
        " announce\nannounce.publish(announce.PROMOTED, announce.model_resource(%r), {'model': 'm',"
        " 'reason': 'r'})"
    )
    for model in ("other-reward", "judge-reward"):
        code = program % (platform.api, model)
        subprocess.run([sys.executable, "-c", code], check=True, env=platform.environment)
    platform.wait(lambda: platform.runs("onreward"))
    assert len(platform.runs("onreward")) == 1


@pytest.mark.slow
def test_two_processes_do_not_hold_one_device_at_once(platform, tmp_path):
    code = (
        f"import os, time; os.environ['PREFECT_API_URL'] = {platform.api!r}\n"
        "from tasks.execution.concurrency import devices_reserved\n"
        "with devices_reserved():\n  print(time.time(), flush=True);"
        " time.sleep(3); print(time.time())"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env=platform.environment,
        )
        for _ in range(2)
    ]
    (_, first_end), (second_start, _) = sorted(
        [float(word) for word in item.communicate()[0].split()] for item in both
    )
    assert second_start >= first_end


@pytest.mark.slow
def test_a_device_without_a_limit_is_refused(platform):
    code = (
        f"import os; os.environ['PREFECT_API_URL'] = {platform.api!r}\n"
        "from tasks.execution.concurrency import devices_reserved\n"
        "with devices_reserved():\n  print('unguarded')"
    )
    environment = platform.environment | {"RLHF_DEVICE_LIMITS": "nobody-made-this"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert (
        done.returncode and "Prefect has no concurrency limit for nobody-made-this" in done.stderr
    )


@pytest.mark.slow
def test_reap_ends_a_killed_run_in_prefect_and_mlflow(platform):
    code = (
        "import os, sys, time\nfrom flows.pipeline import flow, runtime\nfrom rlhf_core.config"
        " import load_recipe\nfrom tasks.run_context import opened\n@flow(name='rlhf',"
        " flow_run_name='victim', persist_result=False)\ndef victim():\n  with"
        f" opened(load_recipe({platform.recipe!r}), 'victim', from_stage=None, until=None,"
        " report=lambda s: None) as s:\n    s.tracker.flush(); print(runtime.flow_run.id,"
        " flush=True); time.sleep(300)\nvictim()"
    )
    environment = platform.environment | {
        "PREFECT_API_URL": platform.api,
        "MLFLOW_TRACKING_URI": platform.mlflow,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=platform.home,
    )
    run = process.stdout.readline().strip()
    assert "crashed: none" in platform.rlhf("reap")  # it is alive
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "crashed: victim" in platform.rlhf("reap")
    assert (
        httpx.get(f"{platform.api}/flow_runs/{run}", timeout=60).json()["state"]["type"]
        == "CRASHED"
    )
    found = httpx.post(
        f"{platform.mlflow}/api/2.0/mlflow/runs/search",
        json={"experiment_ids": ["1", "0"], "filter": "attributes.run_name = 'victim'"},
    ).json()
    assert [item["info"]["status"] for item in found["runs"]] == ["KILLED"]


def test_the_flow_that_is_deployed_is_the_one_that_is_run_by_hand():
    (made,) = build_deployments(load_recipe("quickstart"), DeploymentOptions("x", "pool"))
    assert (
        made.entrypoint == "flows.pipeline.pipeline" and made.flow_name == pipeline.name == "rlhf"
    )
