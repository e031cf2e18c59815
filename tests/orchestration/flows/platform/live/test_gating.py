"""The live gate of a canary that really runs: vLLM servers, router, watcher and registry."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.platform.live.state import LiveFolder
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.models import load_scalar, save_model
from tasks.live.replies import LOGGED, live_replies
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.promotion import PromotionRequest, promote
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect

pytestmark = pytest.mark.slow
WORDS = [f"w{number}" for number in range(20)]
SERVE = ("--log", "1", "--vllm", "--max-model-len 128")


def save_policy(source, folder, change) -> None:
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def nearly_the_same(model) -> None:
    model.lm_head.weight[0, 0] += 1e-4


def ends_at_once(model) -> None:
    """Let the end of turn be the only token: the hidden state is the same at every place."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    model.model.embed_tokens.weight.fill_(1.0)
    model.lm_head.weight.zero_()
    model.lm_head.weight[model.config.eos_token_id] = 1.0


@pytest.fixture
def registry(tiny_model, home, tmp_path) -> RegistryAliases:
    """Version 1 is champion, 2 gives nearly its replies, 3 gives empty ones; both won a contest."""
    from registrar import Registrar

    models, workspace = tmp_path / "models", Workspace(home)
    for number, change in enumerate((lambda model: None, nearly_the_same, ends_at_once), start=1):
        save_policy(tiny_model, models / f"policy-{number}", change)
    reward = load_scalar(tiny_model, new_head=True, seed=3)
    save_model(reward, load_tokenizer(tiny_model), models / "reward-1")
    found = RegistryAliases(connect(workspace.tracking_uri), workspace, "tiny")
    registrar = Registrar(found, models)
    registrar.add("reward", 1)
    registrar.policy(1)
    for seed in (2, 3):
        registrar.policy(seed, beats="1")
    promote(found, PromotionRequest(version="1"))
    return found


class Served:
    """The live model as its clients see it."""

    def __init__(self, place: LiveFolder):
        self.place, self.draw = place, random.Random(0)

    def ask(self, count: int) -> list[str]:
        """Return the versions that answered `count` requests, once MLflow has all of them."""
        options = self.place.options()
        assert options is not None
        url = f"{options.address}/chat/completions"
        prompts = [" ".join(self.draw.choices(WORDS, k=6)) for _ in range(count)]

        def one(prompt: str) -> str:
            body = {"model": "tiny", "messages": [{"role": "user", "content": prompt}]}
            reply = httpx.post(url, json=body | {"max_tokens": 6}, timeout=120)
            return str(reply.raise_for_status().json()["model"])

        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(one, prompts))
        self.until(lambda: not list(self.place.replies.glob(LOGGED)))
        return found

    def until(self, condition) -> None:
        end = time.monotonic() + 600
        while not condition():
            assert time.monotonic() < end, self.place.state()
            time.sleep(0.3)

    def shares(self) -> dict[str, int]:
        state = self.place.state()
        return dict(state.shares) if state else {}


@pytest.fixture
def served(registry, rlhf):
    place = LiveFolder(registry.workspace, "tiny")
    yield Served(place)
    rlhf("live", "stop", "tiny")


def test_a_candidate_that_is_not_worse_is_promoted_and_gets_every_request(served, registry, rlhf):
    code, said, err = rlhf("live", "tiny", "--canary", "50", "--candidate", "2", *SERVE)
    assert code == 0, said + err
    assert served.shares() == {"1": 50, "2": 50}
    decision = ""
    for _ in range(6):
        served.ask(800)
        code, said, err = rlhf("live", "gate", "tiny", "--json")
        assert code == 0, said + err
        if (decision := json.loads(said)["decision"]) == "forward":
            break
    assert decision == "forward", said
    code, said, err = rlhf("live", "gate", "tiny", "--apply")
    assert code == 0 and "forward: version 2 is not worse" in said, said + err
    assert registry.aliases()["policy@champion"] == "2"
    served.until(lambda: served.shares() == {"2": 100})
    assert set(served.ask(20)) == {"tiny-policy-2"}
    entry = registry.ledger.entries()[-1]
    assert (entry.version, entry.outcome) == ("2", "done")
    assert entry.live is not None and entry.live.decision == "forward"


def test_a_candidate_with_empty_replies_is_sent_back_and_its_score_says_so(served, registry, rlhf):
    words = ("--canary", "50", "--candidate", "3", "--shadow", "1", *SERVE)
    code, said, err = rlhf("live", "tiny", *words)
    assert code == 0, said + err
    served.ask(300)  # a look has 50 of each of the same time: of 150 the champion may have 49
    code, said, err = rlhf("live", "gate", "tiny", "--json")
    assert code == 3 and "kept requests of the champion" in err, said + err
    found = json.loads(said)
    scored = next(each for each in found["measures"] if each["name"] == "paired_score")
    assert scored["champion_n"] >= 20 and scored["note"] == "" and scored["candidate"] != 0
    _, said, err = rlhf("live", "gate", "tiny", "--json")
    assert json.loads(said) == found and "kept requests" not in err  # drawn and scored once
    code, said, err = rlhf("live", "gate", "tiny", "--apply")
    assert code == 3 and "empty_share 1" in said and "The canary is over" in said, said + err
    served.until(lambda: served.shares() == {"1": 100})
    state = served.place.state()
    assert state is not None and list(state.servers) == ["1"]
    assert set(served.ask(20)) == {"tiny-policy-1"}
    entry = registry.ledger.entries()[-1]
    assert (entry.version, entry.outcome) == ("3", "refused")
    assert registry.aliases()["policy@champion"] == "1"
    kept = list(live_replies(registry.client, "tiny"))
    assert {reply.version for reply in kept} == {"1", "3"} and len(kept) == 320
    files = (*registry.workspace.home.rglob("pairs.jsonl"),)
    assert not files  # what was scored is in no file any more
