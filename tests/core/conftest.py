"""A recipe of defaults, and a finished stage as gates see it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rlhf_core.config import Recipe, load_recipe
from rlhf_core.gates.decide import Subject
from rlhf_core.rundir import Artifact, StageResult, StageSpec

DATA = {
    "sft": ("demonstrations_train", "demonstrations_heldout"),
    "reward": ("comparisons_train", "comparisons_heldout"),
    "ppo": ("prompts_train",),
    "evaluate": ("prompts_heldout", "demonstrations_heldout"),
}
WORDS_OF_TINY = ("<pad>", "<eos>", "<unk>", "user", "assistant", ":", *(f"w{i}" for i in range(56)))
PLAIN = (
    'name = "plain"\nmodel.base = "b"\nregistry.name = "plain"\ndata = {demonstrations = "d",'
    ' comparisons = "c"}\n'
)


@pytest.fixture(autouse=True)
def own_linear(monkeypatch) -> None:
    """Put back torch's linear map, which ZeRO 3 replaces for the rest of a process."""
    monkeypatch.setattr(torch.nn.functional, "linear", torch.nn.functional.linear)


@pytest.fixture
def recipe(tmp_path) -> Callable[..., Recipe]:
    """Load a recipe of every default, with the given settings on top."""
    file = tmp_path / "plain.toml"
    file.write_text(PLAIN)
    return lambda *settings: load_recipe(str(file), settings)


@pytest.fixture
def padding_with(tiny_model, tmp_path) -> Callable[[str | None], Path]:
    """Copy the tiny model; its tokenizer pads with this token, and knows no other as padding."""

    def make(pad: str | None) -> Path:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = {word: number for number, word in enumerate(WORDS_OF_TINY)}
        core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        named = {"eos_token": "<eos>", "unk_token": "<unk>"} | ({"pad_token": pad} if pad else {})
        folder = shutil.copytree(tiny_model, tmp_path / "base")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **named)
        tokenizer.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def subject(tmp_path) -> Callable[..., Subject]:
    """Make a finished stage: result, spec, model and data on disk, items.parquet.

    Metric names are given without their prefix; further keywords are `counts` and `intervals`.
    """

    def artifact(name: str) -> Artifact:
        (tmp_path / name).write_text(f"bytes of {name}")
        return Artifact.of(tmp_path / name)

    def make(
        stage: str,
        metrics: dict,
        items: dict | None = None,
        *,
        champion: bool = False,
        **evidence: dict,
    ) -> Subject:
        prefix = {"evaluate": "eval"}.get(stage, stage)
        names = {"evaluate": ("policy", "sft", "reward")}.get(stage, ("model",))
        inputs = {
            name: artifact(name)
            for name in (*names, *DATA[stage], *(("champion",) if champion else ()))
        }
        spec = StageSpec(stage=stage, seed=1, config={}, inputs=inputs, code="source")
        if items:
            pq.write_table(pa.table(items), tmp_path / "items.parquet")
        result = StageResult(
            stage=stage,
            digest=spec.digest,
            seconds=1.0,
            metrics={f"{prefix}/{k}": v for k, v in metrics.items()},
            outputs={} if stage == "evaluate" else {"model": artifact("trained")},
            files={"items": "items.parquet"} if items else {},
            **{
                field: {f"{prefix}/{k}": v for k, v in values.items()}
                for field, values in evidence.items()
            },
        )
        return Subject(result, spec, Path(tmp_path), commit="abc1234")

    return make
