"""The memory of a deployment that starts on labels."""

from tasks.labels.campaign import CampaignFolder
from tasks.labels.ready import CampaignLabels
from tasks.labels.trigger import TriggerFile, TriggerMemory, UsedCampaign
from tasks.records.workspace import Workspace


def labels(tmp_path, name: str, count: int) -> CampaignLabels:
    return CampaignLabels(CampaignFolder(Workspace(tmp_path), name), f"id-{name}", count)


def used(name: str) -> UsedCampaign:
    return UsedCampaign(id=f"id-{name}", name=name, file=f"/labels/{name}.jsonl")


def test_labels_that_a_run_was_started_on_count_no_more(tmp_path):
    found = [labels(tmp_path, "week-48", 250), labels(tmp_path, "week-49", 90)]
    memory = TriggerMemory()
    assert memory.waits(memory.unused(found[:1]), 200) is None
    memory = memory.using([used("week-48")])
    assert memory.unused(found) == found[1:]
    assert memory.waits(memory.unused(found), 200) == "90 of 200 new labels"
    assert memory.waits([], 1) == "0 of 1 new labels"
    assert memory.unused([labels(tmp_path, "week-50", 0)]) == []


def test_a_campaign_of_the_same_name_is_another_one(tmp_path):
    memory = TriggerMemory(used=(used("week-48").model_copy(update={"id": "older"}),))
    assert memory.unused([labels(tmp_path, "week-48", 5)])


def test_annotators_who_agree_too_little_are_refused_once_for_each_number(tmp_path):
    new = [labels(tmp_path, "week-48", 250)]
    memory = TriggerMemory().about_to_use(new).refusing(250)
    assert memory.pending == ()
    assert memory.waits(new, 200) == "250 new labels, and annotators agree too little"
    assert memory.waits([labels(tmp_path, "week-48", 251)], 200) is None


def test_a_run_is_due_until_it_is_started_and_again_when_it_never_began():
    memory = TriggerMemory()
    assert not memory.is_due
    due = memory.using([used("week-48")])
    assert due.is_due and due.key == memory.using([used("week-48")]).key
    started = due.started("run-1")
    assert not started.is_due
    again = started.again()
    assert again.is_due and again.key != due.key  # Prefect makes a second run for another key
    later = started.using([used("week-49")])
    assert later.is_due and later.files == ["/labels/week-48.jsonl", "/labels/week-49.jsonl"]


def test_the_memory_is_kept_by_the_name_of_the_deployment(tmp_path):
    file, memory = TriggerFile(Workspace(tmp_path), "weekly"), TriggerMemory(used=(used("a"),))
    with file.locked():
        assert file.load() == TriggerMemory()
        file.save(memory)
        assert TriggerFile(Workspace(tmp_path), "weekly").load() == memory
        assert TriggerFile(Workspace(tmp_path), "daily").load() == TriggerMemory()
