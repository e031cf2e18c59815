"""The study of picking: each way gets its cells, made once, and intervals are Student's."""

import json
import sys
from pathlib import Path
from random import Random

import pytest

from rlhf_core.config import Reward, Sampling
from rlhf_core.quickstart.base_model import make_model, make_tokenizer
from rlhf_core.quickstart.language import OBJECTS, VERBS, Request, sample_prompt, sample_reply
from rlhf_core.rundir import Artifact

STUDIES = Path(__file__).resolve().parents[3] / "infra" / "studies"
WAYS = ("random", "disagreement")


@pytest.fixture(autouse=True)
def studies_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(STUDIES))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    yield
    for name in ("picking", "picking_table", "simulated_votes"):
        sys.modules.pop(name, None)


@pytest.fixture
def inputs(tmp_path) -> dict[str, Artifact]:
    """An untrained model that knows the quickstart's words, and a few rows of its language."""
    import torch

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    make_model(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    found = {name: Artifact.of(tmp_path / "model") for name in ("sft", "policy")}
    rng = Random(1)
    for name in ("comparisons_train", "comparisons_heldout", "prompts_train", "prompts_heldout"):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row(rng, n)) + "\n" for n in range(24)))
        found[name] = Artifact.of(file)
    return found


def row(rng: Random, number: int) -> dict:
    """Return a comparison, whose prompt serves as one too."""
    request = Request(rng.choice(VERBS), rng.choice(OBJECTS))
    replies = [sample_reply(rng, request, quality=quality) for quality in (0.9, 0.1)]
    prompt = [{"role": "user", "content": sample_prompt(rng, request)}]
    return {"id": str(number), "prompt": prompt, "chosen": replies[0], "rejected": replies[1]}


def test_every_way_is_measured_on_every_set_and_a_finished_cell_is_not_repeated(
    inputs, tmp_path, monkeypatch
):
    import picking

    monkeypatch.setattr(picking, "MEMBERS", 2)
    monkeypatch.setattr(picking, "DRAWS", 1)
    study = picking.Study(
        inputs=inputs,
        folder=tmp_path / "study",
        reward=Reward(lr=1e-3, batch_size=16),
        sampling=Sampling(engine="transformers", max_new_tokens=4),
        base=12,
        labels=(4,),
        ways=WAYS,
    )
    picking.run_seed(study, 1)
    cells = {file.name: file for file in (tmp_path / "study" / "cells").iterdir()}
    assert set(cells) == {"1-base-0.json", "1-random-4.json", "1-disagreement-4.json"}
    found = json.loads(cells["1-disagreement-4.json"].read_text())
    assert found["picked"] == 4
    assert set(found["accuracy"]) == {"old", "sft", "policy"}
    assert all(0 <= share <= 1 for one in found["accuracy"].values() for share in one.values())
    before = {name: file.stat().st_mtime_ns for name, file in cells.items()}
    picking.run_seed(study, 1)
    assert {name: file.stat().st_mtime_ns for name, file in cells.items()} == before
    assert "| 4 | disagreement |" in picking.report(tmp_path / "study")


def test_the_difference_to_random_is_taken_within_seeds_with_students_interval():
    from picking_table import student, tables

    def cell(seed: int, way: str, accuracy: float) -> dict:
        sets = {name: {"truth": accuracy} for name in ("old", "sft", "policy")}
        shares = {"wrong_labels": 0.25, "equal_utility": 0.0}
        return {"seed": seed, "way": way, "labels": 100, "accuracy": sets} | shares

    cells = [cell(n, "random", 0.6 + n / 10) for n in range(3)]
    cells += [cell(n, "uncertain", 0.6 + n / 10 + d) for n, d in enumerate((0.01, 0.02, 0.03))]
    # mean 0.02, deviation 0.01, t(2, 0.975) = 4.3027: half width 4.3027 * 0.01 / sqrt(3) = 0.0248
    assert student([0.01, 0.02, 0.03]) == pytest.approx((0.02, 0.024841), abs=1e-6)
    lines = tables(cells, "truth")
    assert lines[2].startswith("| 100 | random | 0.700 | 0.700 | 0.700 | 25.0% | 0.0% |")
    assert lines[3].startswith("| 100 | uncertain | 0.720 (+0.020 [-0.005, +0.045])")


def test_seeds_are_read_as_numbers_and_ranges():
    import picking

    assert picking.numbers("1,3-5") == (1, 3, 4, 5)
