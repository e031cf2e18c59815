"""The steps of a transaction: bytes, smoke test, other promoters; a refusal changes no alias."""

import contextlib
import shutil

import pytest
import torch
from promotion_checks import champions, files, refused, replaced
from safetensors.torch import load_file, save_file

from rlhf_core.errors import BadInput, PromotionRefused
from tasks.promotion import aliases, transaction
from tasks.promotion.promotion import PromotionRequest, history, promote


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("artifacts/model/model.safetensors", b"other weights", "other weights"),
        ("artifacts/model/extra.json", b"{}", "other weights"),
        ("gates.json", b'{"decisions": []}', "other gate records"),
        ("policy_model.py", b"import os", "other code, MLmodel or approval"),
        ("sitecustomize.py", b"import os", "other code, MLmodel or approval"),
        ("approval.json", b'{"required": false}', "other code, MLmodel or approval"),
    ],
)
def test_tampered_files_are_refused(registry, name, content, what):
    file = files(registry, "2") / name
    existed = file.exists()
    with contextlib.ExitStack() as stack:
        if existed:
            stack.enter_context(replaced(file, content))
        else:
            file.write_bytes(content)
            stack.callback(file.unlink)
        with refused(registry, f"version 2 of tiny-policy has {what} than when it was registered"):
            promote(registry, PromotionRequest(version="2"))


def test_a_tampered_reward_model_stops_its_policy(registry):
    weights = files(registry, "2", "reward") / "artifacts/model/model.safetensors"
    with replaced(weights, b"x"), refused(registry, "version 2 of tiny-reward has other weights"):
        promote(registry, PromotionRequest(version="3"))


def broken(registrar, change) -> str:
    """Register a policy with weights changed by `change`, all gates passed; return its version."""
    source, target = registrar.models / "policy-2", registrar.models / "policy-99"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    save_file(change(weights), target / "model.safetensors", metadata={"format": "pt"})
    return registrar.policy(99, beats="1")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda weights: {
                name: torch.full_like(value, float("nan")) for name, value in weights.items()
            },
            "not finite",
        ),
        (
            lambda weights: {
                name: value for name, value in weights.items() if "q_proj" not in name
            },
            "lacks the weights",
        ),
        (
            lambda weights: {name: value[:1] for name, value in weights.items()},
            "cannot be loaded and run",
        ),
    ],
)
def test_a_champion_that_does_not_run_is_put_back(registrar, change, says):
    version = broken(registrar, change)
    with refused(registrar.registry, says, outcome="reverted"):
        promote(registrar.registry, PromotionRequest(version=version))


def test_a_version_or_name_that_does_not_exist_is_refused_before_anything_is_written(registry):
    for version, kind in (("77", "policy"), ("77", "reward")):
        with pytest.raises(PromotionRefused, match=f"version 77 of tiny-{kind} does not exist"):
            promote(registry, PromotionRequest(kind=kind, version=version))
    registry.client.delete_model_version("tiny-policy", "2")
    with pytest.raises(PromotionRefused, match="deleted"):
        promote(registry, PromotionRequest(version="2"))
    with pytest.raises(
        BadInput, match=r"no registered model other-policy; found tiny-policy, tiny-reward"
    ):
        aliases.open_registry("other")
    with pytest.raises(BadInput, match="no registry name"):
        aliases.open_registry("x' or '1'='1")
    assert len(registry.ledger.entries()) == 1


def test_a_deleted_reward_version_stops_its_policy(registry):
    registry.client.delete_model_version("tiny-reward", "2")
    with refused(registry, "version 2 of tiny-reward does not exist"):
        promote(registry, PromotionRequest(version="3"))


# other promoters


def test_a_champion_other_than_expected_is_refused(registry):
    with refused(registry, "champion of tiny-policy is version 1, expected version 7"):
        promote(registry, PromotionRequest(version="2", expects="7"))
    with refused(registry, "is version 1, expected none"):
        promote(registry, PromotionRequest(version="2", expects=""))
    with refused(registry, "is version 1, expected version 2"):
        promote(registry, PromotionRequest(version="2", expects="2"))
    assert promote(registry, PromotionRequest(version="2", expects="1")).promoted


def test_while_one_is_at_work_others_are_refused_and_named_the_reason(registry):
    busy = registry.ledger.append("promote", "tiny-policy", "2")
    registry.ledger.record_step(busy, "smoke")
    with refused(
        registry,
        r"entry 2 \(promote tiny-policy 2, by .*\) is at work \(step 'smoke'\), and one attempt at"
        r" a time",
    ):
        promote(registry, PromotionRequest(version="3"))
    registry.ledger.release(busy)  # as a killed process
    assert promote(registry, PromotionRequest(version="3")).promoted
    assert [(entry.action, entry.outcome) for entry in registry.ledger.entries()[1:]] == [
        ("promote", "undone"),
        ("promote", "refused"),
        ("recover", "done"),
        ("promote", "done"),
    ]


def test_an_attempt_that_was_taken_for_dead_moves_nothing_more(registry, monkeypatch):
    """As a process that slept longer than its lease, while another machine ended its entry."""
    examine = transaction.check_version

    def slept(*args):
        registry.ledger.close(registry.ledger.entries()[-1], "undone", "taken for dead")
        return examine(*args)

    monkeypatch.setattr(transaction, "check_version", slept)
    with pytest.raises(PromotionRefused, match="taken for dead"):
        promote(registry, PromotionRequest(version="2"))
    assert (
        champions(registry) == ("1", None, "1", None)
        and registry.ledger.entries()[-1].outcome == "undone"
    )


def test_an_alias_moved_by_hand_during_an_attempt_is_left_and_reported(registry, monkeypatch):
    smoke = transaction.smoke_test_alias

    def meddled(*args):
        registry.client.set_registered_model_alias("tiny-policy", "champion", "4")
        smoke(*args)

    monkeypatch.setattr(transaction, "smoke_test_alias", meddled)
    with pytest.raises(PromotionRefused, match="serves version 4, expected version 2"):
        promote(registry, PromotionRequest(version="2"))
    last = registry.ledger.entries()[-1]
    assert (
        last.outcome == "reverted"
        and "moved by somebody else and is left at version 4" in last.outcome_reason
    )
    assert "the ledger says version 1" in history(registry).problems[0]
