"""Finished stages in a workspace that were never run: who made which model, on which prompts."""

from collections.abc import Mapping
from pathlib import Path

from recipes import MODEL_FILES

from rlhf_core.data.splits import save_split
from rlhf_core.rundir import Artifact, StageResult, StageSpec
from tasks.records.workspace import Workspace


def rows(*prompts: str) -> list[dict]:
    """Return canonical records with these prompts."""
    return [{"prompt": [{"role": "user", "content": prompt}]} for prompt in prompts]


class MadeModels:
    """A workspace with run directories that were never run."""

    def __init__(self, home: Path):
        self.workspace = Workspace(home)

    def stage(
        self,
        stage: str,
        name: str,
        inputs: Mapping[str, Artifact],
        outputs: Mapping[str, list[dict] | str],
    ) -> dict[str, Artifact]:
        """Write a finished stage; return the artifacts that it made, with files of these names."""
        folder = self.workspace.runs / f"{stage}-{name}"
        made = {}
        for output, content in outputs.items():
            path = folder / output
            if isinstance(content, list):
                save_split(path, content)
            else:
                path.mkdir(parents=True)
                (path / "weights").write_text(content)
                for file in MODEL_FILES:
                    (path / file).write_text("{}")
            made[output] = Artifact.of(path)
        spec: StageSpec[dict] = StageSpec(
            stage=stage, seed=1, config={}, inputs=dict(inputs), code="c"
        )
        relative = {n: a.model_copy(update={"path": a.path.name}) for n, a in made.items()}
        result = StageResult(stage=stage, digest=spec.digest, outputs=relative, seconds=1.0)
        (folder / "spec.json").write_text(spec.model_dump_json())
        (folder / "result.json").write_text(result.model_dump_json())
        return made

    def pipeline(self, name: str, *prompts: str) -> tuple[dict[str, Artifact], Artifact, Artifact]:
        """Write validation, SFT and reward model on these prompts; return what they made."""
        data = self.stage(
            "validate",
            name,
            {},
            {
                "demonstrations_train": rows(f"{name} demonstration"),
                "comparisons_train": rows(*prompts),
            },
        )
        base = Artifact(path=self.workspace.home, digest="base")
        sft = self.stage(
            "sft",
            name,
            {"model": base, "demonstrations_train": data["demonstrations_train"]},
            {"model": f"sft {name}"},
        )["model"]
        inputs = {"model": sft, "comparisons_train": data["comparisons_train"]}
        reward = self.stage("reward", name, inputs, {"model": f"reward {name}"})["model"]
        return data, sft, reward
