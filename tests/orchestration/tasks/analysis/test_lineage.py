"""Lineage over a real MLflow store: a model's sources, and every model that saw some data."""

import hashlib
import json

import pytest
from command_line import rlhf_exit_code
from synthetic import Story, Synthetic

from flows.report.picture import layout, picture
from rlhf_core.errors import ConfigError
from tasks.analysis.lineage import lineage
from tasks.analysis.lineage_graph import Edge, Graph, Node, build
from tasks.analysis.run_evidence import RunEvidence, StageEvidence, from_record
from tasks.records.workspace import Workspace
from tasks.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def told(tmp_path_factory, empty_store):
    """Record two runs that share demonstrations; the second one's policy is the champion."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("lineage")
    patch.setenv("RLHF_HOME", str(folder))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    made = Synthetic(Workspace.here(), folder)
    stories = [
        Story("first"),
        Story(
            "second",
            comparisons="comparisons-b",
            heldout="heldout-b",
            reward="reward-b",
            policy="policy-b",
            champion="policy-a",
        ),
    ]
    trackers = [made.tell(story) for story in stories]
    client = trackers[0].client
    client.create_registered_model("tiny-policy")
    for name, tracker in zip(("policy-a", "policy-b"), trackers, strict=True):
        tags = {
            "digest": made.artifact(name, model=True).digest,
            "pipeline_run_id": tracker.record.run_id,
        }
        client.create_model_version("tiny-policy", source="file:///nowhere", tags=tags)
    client.set_registered_model_alias("tiny-policy", "champion", "2")
    client.set_registered_model_alias("tiny-policy", "candidate", "2")
    # its entries have digests too, but are not models
    client.create_registered_model("tiny-ledger")
    client.create_model_version(
        "tiny-ledger", source="ledger:/tiny", tags={"digest": tags["digest"]}
    )
    yield made, client
    patch.undo()


def names(graph: Graph, digests) -> set[str]:
    return {graph.nodes[digest].name for digest in digests}


def roles(graph: Graph, target: str) -> dict[str, str]:
    """Return name of a source -> role, for the node called `target`."""
    digest = next(node.digest for node in graph.nodes.values() if node.name == target)
    return {graph.nodes[edge.source].name: edge.role for edge in graph.into(digest)}


def test_a_model_is_traced_back_to_the_files_with_role_run_and_version(told):
    made, client = told
    found = lineage(client, "tiny-policy@champion")
    assert found.root == made.artifact("policy-b", model=True).digest and found.saw is None
    assert roles(found.graph, "policy") == {
        "SFT model": "starts from",
        "reward model": "trained against",
        "prompts_train": "trained on",
        "champion": "compared with",
        "prompts_heldout": "measured on",
        "demonstrations_heldout": "measured on",
    }
    assert roles(found.graph, "reward model") == {
        "SFT model": "starts from",
        "comparisons_train": "trained on",
        "comparisons_heldout": "measured on",
    }
    assert (
        roles(found.graph, "comparisons_train")
        == roles(found.graph, "prompts_train")
        == {"comparisons (file)": "made from"}
    )
    assert roles(found.graph, "demonstrations_train") == {"demonstrations (file)": "made from"}
    root = found.graph.nodes[found.root]
    assert (
        root.versions == ["tiny-policy 2 @candidate @champion"]
        and list(root.runs) == ["second"]
        and root.stage == "ppo"
    )
    # how the rival was made is another lineage
    assert "policy-a" not in json.dumps(found.graph.as_json())


def test_what_a_run_reused_names_the_run_that_made_it(told):
    """As in MLflow: the version's tag names the last run that registered the same bytes."""
    made, client = told
    record = made.write(Story("first")).model_copy(update={"name": "again"})
    for stage in record.stages:
        stage.cached = stage.stage != "evaluate"
    tracker = Tracker(made.workspace, record)
    tracker.end("FINISHED")
    client.set_model_version_tag("tiny-policy", "1", "pipeline_run_id", tracker.record.run_id)
    for reference in ("tiny-policy/1", "again", made.artifact("policy-a", model=True).digest):
        found = lineage(client, reference)
        root = found.graph.nodes[found.root]
        assert list(root.runs) == ["first"] and root.runs["first"].startswith("http")
        makers = {name for node in found.graph.nodes.values() if node.stage for name in node.runs}
        assert makers == {"first"}


def test_files_that_prepare_generated_name_the_run_that_generated_them():
    recipe = {"data": {"comparisons": {"path": "{prepared}/comparisons.jsonl"}}}
    source = {"inputs": {"comparisons": {"digest": "1" * 64}}}
    files = {"outputs": {"files": {"digest": "2" * 64}}}

    def run(name: str) -> RunEvidence:
        stages = {
            "prepare": StageEvidence("prepare", "FINISHED", digest="p" * 64, result=files),
            "validate": StageEvidence("validate", "FINISHED", digest=name * 8, spec=source),
        }
        return RunEvidence(name, "FINISHED", recipe, stages=stages)

    graph = build([run("first"), run("again")], {"p" * 64: ("first", None)})
    assert list(graph.nodes["1" * 64].runs) == list(graph.nodes["2" * 64].runs) == ["first"]
    assert Edge("2" * 64, "1" * 64, "made from") in graph.edges


def test_data_leads_to_every_model_that_was_trained_on_it_or_on_what_came_of_it(told):
    made, client = told
    found = lineage(client, made.artifact("demonstrations.jsonl").digest)
    assert {found.graph.nodes[digest].name: how for digest, how in found.saw.items()} == {
        "SFT model": "trained",
        "reward model": "trained",
        "policy": "trained",
    }
    assert len(found.saw) == 5  # one SFT model, two reward models, two policies
    only = lineage(client, made.artifact("comparisons-b").digest)
    assert [digest for digest in only.saw if only.graph.nodes[digest].name == "policy"] == [
        made.artifact("policy-b", model=True).digest
    ]


def test_heldout_data_only_measured_its_models_and_nothing_beyond_them(told):
    made, client = told
    found = lineage(client, made.artifact("comparisons_heldout of comparisons-a").digest[:10])
    assert {found.graph.nodes[digest].name: how for digest, how in found.saw.items()} == {
        "reward model": "measured"
    }


def test_a_file_is_known_by_its_content(told, tmp_path):
    made, client = told
    copy = tmp_path / "copy.jsonl"
    copy.write_text("comparisons-a")
    assert lineage(client, str(copy)).root == made.artifact("comparisons-a").digest
    copy.write_text("comparisons-a, changed")
    with pytest.raises(ConfigError, match="no run in MLflow has read"):
        lineage(client, str(copy))


def test_a_run_or_a_models_digest_gives_its_ancestors(told):
    made, client = told
    policy = made.artifact("policy-a", model=True).digest
    assert lineage(client, "first").root == lineage(client, policy).root == policy
    assert lineage(client, policy).saw is None


@pytest.mark.parametrize(
    "reference", ["tiny-policy@best", "abcdef123456", "none-such", "other@champion"]
)
def test_what_nobody_knows_is_refused(told, reference):
    with pytest.raises(ConfigError):
        lineage(told[1], reference)


def test_a_prefix_of_two_digests_is_ambiguous(told):
    """Make two files whose digests share six digits; some ten thousand are tried."""
    made, client = told
    seen: dict[str, int] = {}
    for number in range(100_000):
        start = hashlib.sha256(f"alike-{number}".encode()).hexdigest()[:6]
        if start in seen:
            break
        seen[start] = number
    for place, name in enumerate((f"alike-{seen[start]}", f"alike-{number}")):
        made.tell(Story(f"alike-{place}", comparisons=name, until="validate"))
    with pytest.raises(ConfigError, match="is the start of several digests"):
        lineage(client, start)
    assert lineage(client, hashlib.sha256(f"alike-{number}".encode()).hexdigest()[:20]).saw == {}


def test_a_prompts_file_of_the_users_own_is_where_its_prompts_come_from(home, tmp_path):
    run = from_record(Synthetic(Workspace.here(), tmp_path).write(Story("own")))
    inputs = run.stages["validate"].spec["inputs"]
    inputs["prompts"] = {"path": "p", "digest": "0" * 64}
    inputs["comparisons_heldout"] = {"path": "h", "digest": "1" * 64}
    graph = build([run])
    assert roles(graph, "prompts_train") == {"prompts (file)": "made from"}
    assert roles(graph, "prompts_heldout") == {"prompts (file)": "made from"}
    assert roles(graph, "comparisons_heldout") == {"comparisons_heldout (file)": "made from"}


def test_the_picture_has_a_box_for_every_content_and_none_covers_another(told):
    made, client = told
    graph = lineage(client, "tiny-policy@champion").graph
    places = layout(graph)
    assert set(places) == set(graph.nodes)
    for first in places:
        for second in places:
            (x1, y1), (x2, y2) = places[first], places[second]
            assert first == second or abs(x1 - x2) > 180 or abs(y1 - y2) > 58
    for edge in graph.edges:
        assert places[edge.source][0] < places[edge.target][0], edge
    svg = picture(graph, made.artifact("policy-b", model=True).digest)
    assert (
        svg.count("<rect") == len(graph.nodes)
        and svg.count("<path") == len(graph.edges)
        and "root" in svg
    )


def test_a_circle_given_by_hand_is_drawn_all_the_same():
    graph = Graph()
    run = type("Run", (), {"name": "r", "link": None})
    for digest in ("a" * 64, "b" * 64):
        graph.add(Node(digest, "model", digest[0], "sft"), (run.name, run.link))
    graph.edges = {
        Edge("a" * 64, "b" * 64, "starts from"): None,
        Edge("b" * 64, "a" * 64, "starts from"): None,
    }
    assert len(layout(graph)) == 2


def test_the_command_draws_a_tree_and_prints_json(told, capsys):
    made, _ = told
    assert rlhf_exit_code("lineage", "tiny-policy@champion") == 0
    out = capsys.readouterr().out
    assert (
        "trained against: reward model" in out
        and "tiny-policy 2 @candidate @champion" in out
        and "(see above)" in out
    )
    assert rlhf_exit_code("lineage", made.artifact("comparisons-a").digest[:12], "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"root", "saw", "nodes", "edges"}
    assert set(printed["saw"].values()) == {"trained"}
    assert rlhf_exit_code("lineage", made.artifact("comparisons-a").digest[:12]) == 0
    assert "Models that saw it" in capsys.readouterr().out
    assert rlhf_exit_code("lineage", "nothing-such") == 2
    assert "there is no run 'nothing-such'" in capsys.readouterr().err


def test_a_hub_data_set_is_in_the_lineage_by_its_commit(home, synthetic):
    commit = "c0ffee" + "0" * 34
    source = {"path": "org/pairs", "config": "easy", "revision": commit, "split": "train"}
    synthetic.hub = {"comparisons": source}
    tracker = synthetic.tell(Story("first"))
    found = lineage(tracker.client, commit)
    assert found.graph.nodes[commit].name == "comparisons (org/pairs)"
    assert set(found.saw) == {
        synthetic.artifact(name, model=True).digest for name in ("reward-a", "policy-a")
    }
    datasets = tracker.client.get_run(tracker.record.stage("validate").run_id).inputs
    (logged,) = [
        item.dataset for item in datasets.dataset_inputs if commit[:32] == item.dataset.digest
    ]
    assert logged.source_type == "hugging_face"
    assert json.loads(logged.source) == {
        "path": "org/pairs",
        "config_name": "easy",
        "split": "train",
        "revision": commit,
    }
