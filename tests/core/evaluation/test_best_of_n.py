"""Evaluation with the best of n replies beside the policy's, and without a reward model.

transformers generates.
"""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from stages import section_spec, splits_of

from rlhf_core.__main__ import run_stage
from rlhf_core.batching.batch import Sequence
from rlhf_core.config import Evaluate, Sampling
from rlhf_core.config.gate_rules import GateRule
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.evaluation.best_of_n import best, kl_bound
from rlhf_core.evaluation.replies import Replies
from rlhf_core.evidence.item_metrics import ITEM_METRICS
from rlhf_core.gates.measure import measure
from rlhf_core.modeling.models import load_scalar, save_model
from rlhf_core.rundir import RunDir

TINY = Sampling(engine="transformers", max_new_tokens=12, kv_cache_mib=64)
SCORER = """
def words(prompts, replies):
    return [float(len(set(reply.split()))) for reply in replies]
"""


@pytest.fixture
def evaluated(tiny_model, tiny_splits, tmp_path, monkeypatch):
    """Evaluate a model against itself; return run directory and result."""
    (tmp_path / "my_scorer.py").write_text(SCORER)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*, with_reward: bool = True, **settings):
        paths = {"policy": tiny_model, "sft": tiny_model}
        paths |= splits_of(tiny_splits, "prompts_heldout", "demonstrations_heldout")
        if with_reward:
            save_model(
                load_scalar(tiny_model, new_head=True),
                load_tokenizer(tiny_model),
                tmp_path / "reward",
            )
            paths["reward"] = tmp_path / "reward"
        config = Evaluate(sampling=TINY, max_prompts=50, **settings)
        spec = section_spec("evaluate", config, paths)
        folder = RunDir(tmp_path / spec.digest[:12])
        return folder, run_stage(spec, folder)

    return run


def items_of(run: RunDir) -> dict[str, list]:
    return pq.read_table(run.path / "items.parquet").to_pydict()


def test_the_best_of_n_never_scores_below_the_sft_models_reply_and_is_recorded_like_a_model(
    evaluated,
):
    run, result = evaluated(best_of_n=4, independent_scorer="my_scorer:words")
    items, metrics = items_of(run), result.metrics
    pairs = list(zip(items["best_of_n_score"], items["sft_score"], strict=True))
    assert (
        all(ours >= theirs - 1e-5 for ours, theirs in pairs)
        and sum(ours > theirs + 1e-3 for ours, theirs in pairs) > 20
    )
    assert metrics["eval/score_best_of_n"] == pytest.approx(
        sum(items["best_of_n_score"]) / 50, rel=1e-5
    )
    # the policy is the SFT model, and has one try
    assert metrics["eval/win_rate_vs_best_of_n"] < 0.4
    assert result.intervals["eval/win_rate_vs_best_of_n"][1] < 0.5
    assert metrics["eval/kl_bound_best_of_n"] == pytest.approx(math.log(4) - 0.75)
    assert metrics["eval/independent_best_of_n"] == pytest.approx(
        sum(items["best_of_n_independent"]) / 50
    )
    for metric in ("score", "independent", "length", "win_rate_vs"):
        name = f"eval/{metric}_best_of_n"
        assert name in ITEM_METRICS
        found = measure(
            GateRule(
                stage="evaluate", metric=name, bound="at least", threshold=0.0, confidence=0.9
            ),
            result,
            run.path,
        )
        assert found.problem is None and found.n == 50
    shown = json.loads((run.path / result.files["samples"]).read_text())["columns"]
    assert {"best_of_n_reply", "best_of_n_score", "best_of_n_independent"} <= set(shown)
    # more draws leave the first ones as they are
    assert items["policy_reply"] == items["sft_reply"]


def test_without_a_reward_model_the_scorer_is_the_score_and_no_second_opinion(evaluated):
    run, result = evaluated(with_reward=False, independent_scorer="my_scorer:words")
    items = items_of(run)
    assert (
        items["policy_score"]
        == items["policy_independent"]
        == [float(len(set(r.split()))) for r in items["policy_reply"]]
    )
    assert result.metrics["eval/win_rate"] == 0.5 and result.metrics["eval/score_gain"] == 0
    assert "eval/length_correlation" in result.metrics
    assert (
        "eval/reward_up_independent_down" not in result.metrics
        and "eval/score_best_of_n" not in result.metrics
    )
    with pytest.raises(BadInput, match=r"no reward model and no evaluate\.independent_scorer"):
        evaluated(with_reward=False)


def test_best_takes_the_highest_draw_of_each_prompt_and_the_first_of_equal_ones():
    def draw(name: str) -> Replies:
        return Replies(
            [Sequence([1], [i]) for i in range(3)],
            [f"{name}{i}" for i in range(3)],
            [name == "b"] * 3,
        )

    scores_KN = torch.tensor([[1.0, 0.0, 2.0], [0.5, 3.0, 2.0]])
    found = best([draw("a"), draw("b")], scores_KN)
    assert found.texts == ["a0", "b1", "a2"] and found.ended == [False, True, False]


@pytest.mark.parametrize("n", [2, 8, 64])
def test_the_bound_is_the_divergence_from_a_model_that_never_says_the_same_twice(n):
    """Compute the KL of the best of n from m equally likely replies by its sum, for a large m.

    The replies have different scores.
    """
    m = 200_000
    edges = (np.arange(m + 1) / m) ** n
    p = np.diff(edges)
    divergence = float((p[p > 0] * np.log(p[p > 0] * m)).sum())
    assert divergence == pytest.approx(kl_bound(n), abs=1e-3)
    few = np.diff((np.arange(4) / 3) ** n)  # three replies: far below the bound
    assert float((few * np.log(few * 3)).sum()) < kl_bound(n)


def test_best_of_n_needs_a_reward_model(recipe):
    with pytest.raises(
        ConfigError,
        match=r"evaluate.best_of_n 8 picks replies by the reward model, and there is none",
    ):
        recipe('align="dpo"', 'evaluate.independent_scorer="m:f"', "evaluate.best_of_n=8")
    with pytest.raises(ConfigError, match="best_of_n"):
        recipe("evaluate.best_of_n=1")
    assert recipe().evaluate.best_of_n is None
