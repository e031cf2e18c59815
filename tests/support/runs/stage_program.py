"""A stage as a program: it reads its spec, logs three steps and leaves its outputs.

The outputs depend on spec and inputs only. `plan.json` beside the program says how each stage
behaves: {"sft": {"crash": true, "seconds": 3, "metrics": {...}}}. With "hold" a stage stays in its
first step until there is a file `go` beside the program.
"""

import json
import shutil
import sys
import time
from pathlib import Path

from rlhf_core.evidence.items import Columns, item_id, write_items
from rlhf_core.rundir import Artifact, RunDir, StageResult, StageSpec, write_atomically

stage, spec_path, run_path = sys.argv[1:]
spec: StageSpec = StageSpec.model_validate_json(Path(spec_path).read_text())
run = RunDir(Path(run_path))
plan = json.loads((Path(__file__).parent / "plan.json").read_text()).get(stage, {})
with (run.path.parent / "started.log").open("a") as file:
    file.write(stage + "\n")
for item in spec.inputs.values():
    item.verified()
if stage == "label-votes":  # the core's own, which loads no model
    from rlhf_core.__main__ import main

    sys.exit(main(sys.argv[1:]))
if stage == "label-pairs":  # pairs in the quickstart's language, by the seed
    from random import Random

    from rlhf_core.quickstart.corpus import split_requests
    from rlhf_core.quickstart.language import sample_prompt, sample_reply

    rng, rows = Random(spec.seed), []
    for request in rng.sample(split_requests(1)[0], spec.config["prompts"]):
        prompt = [{"role": "user", "content": sample_prompt(rng, request)}]
        replies = {
            f"reply_{side}": sample_reply(rng, request, quality=rng.random()) for side in "ab"
        }
        scores = {"margin": rng.gauss(0, 1), "preferences": {"reward_1": 0.5}}
        rows.append({"kind": "fresh", "prompt": prompt} | replies | scores)
    write_atomically(run.path / "pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = StageResult(
        stage=stage, digest=spec.digest, files={"candidates": "pairs.jsonl"}, seconds=0.1
    )
    write_atomically(run.path / "result.json", found.model_dump_json())
    sys.exit(0)
OUTPUTS = {
    "validate": [
        f"{kind}_{part}"
        for kind in ("demonstrations", "comparisons", "prompts")
        for part in ("train", "heldout")
    ],
    "sft": ["model"],
    "reward": ["model"],
    "ppo": ["model"],
    "dpo": ["model"],
    "evaluate": [],
}
STEPS = {
    "sft": "sft/loss",
    "reward": "reward/loss",
    "ppo": "ppo/kl_per_response",
    "dpo": "dpo/loss",
}
METRICS = {
    "validate": {"data/rows_kept": 30.0},
    "sft": {"sft/heldout_loss": 2.0, "sft/heldout_improvement": 1.0},
    "reward": {
        "reward/heldout_pairs": 400.0,
        "reward/accuracy": 0.8,
        "reward/accuracy_lower": 0.76,
        "reward/accuracy_over_length": 0.2,
    },
    "ppo": {"ppo/score_mean": 1.5, "ppo/kl_per_response": 3.0},
    "dpo": {"dpo/heldout_pairs": 400.0, "dpo/accuracy": 0.7, "dpo/accuracy_lower": 0.65},
    "evaluate": {
        "eval/prompts": 100.0,
        "eval/win_rate": 0.8,
        "eval/win_rate_lower": 0.7,
        "eval/kl_per_response": 3.0,
        "eval/length_ratio": 1.0,
        "eval/repetition_increase": 0.0,
        "eval/alignment_tax": 0.1,
        "eval/length_correlation": 0.2,
        "eval/length_correlation_sft": 0.1,
        "eval/distinct_2_cut_ratio": 0.9,
        "eval/first_word_rise": 0.1,
        "eval/prompt_retrieval_loss_lower": 0.0,
    },
}
# of the metrics whose gates look at an end of the interval, not at the estimate
HALF_WIDTHS = {
    "sft/heldout_improvement": 0.01,
    "reward/accuracy": 0.04,
    "reward/accuracy_over_length": 0.05,
    "eval/length_ratio": 0.05,
    "eval/repetition_increase": 0.01,
    "eval/alignment_tax": 0.01,
}
if plan.get("crash") and not (run.path / "crashed").exists():
    (run.path / "crashed").touch()
    print("a crash before anything was done")
    sys.exit(1)
for step in (1, 2, 3):
    run.log(step, 3, {STEPS.get(stage, "tokens_per_second"): 1.0 / step})
    time.sleep(plan.get("seconds", 0.0) / 3)
    while plan.get("hold") and not (Path(__file__).parent / "go").exists():
        time.sleep(0.1)
outputs = {}
for name in OUTPUTS[stage]:
    target = run.path / name
    ready = Path(__file__).parent / "models" / stage  # one that loads, for what is to be promoted
    if ready.exists():
        shutil.copytree(ready, target, dirs_exist_ok=True)
    elif stage != "validate" and (given := spec.inputs.get("policy") or spec.inputs.get("model")):
        shutil.copytree(given.path, target, dirs_exist_ok=True)
    target.mkdir(exist_ok=True)
    (target / f"made_by_{stage}").write_text(spec.digest)
    outputs[name] = Artifact(path=Path(name), digest=Artifact.of(target).digest)
metrics = METRICS[stage] | plan.get("metrics", {})
compared = [name for name in HALF_WIDTHS if name in metrics]
counts = dict.fromkeys([next(iter(metrics)), *compared], 400)
files = {"samples": "samples.table.json", "docs": "docs"}
if "champion" in spec.inputs:
    share, n = plan.get("win_rate_vs_champion", 0.4), 400
    for name in ("eval/win_rate_vs_champion", "eval/independent_win_rate_vs_champion"):
        metrics[name], counts[name] = share, n
    policy_scores = [1.0] * round(share * n) + [0.0] * (n - round(share * n))
    columns: Columns = {
        "prompt": [f"prompt {i}" for i in range(n)],
        "prompt_id": [item_id(spec.inputs["prompts_heldout"].digest, str(i)) for i in range(n)],
    }
    columns |= {"policy_score": policy_scores, "champion_score": [0.5] * n}
    columns |= {"sft_score": [0.5] * n, "sft_reply": ["b"] * n, "policy_reply": ["b"] * n}
    columns |= {"policy_independent": policy_scores, "champion_independent": [0.5] * n}
    files |= write_items(run.path, columns)
(run.path / "samples.table.json").write_text(
    json.dumps({"columns": ["prompt", "reply"], "data": [["a", "b"], ["c", "d"]]})
)
(run.path / "docs").mkdir(exist_ok=True)
(run.path / "docs" / "index.html").write_text("<p>docs</p>")
result = StageResult(
    stage=stage,
    digest=spec.digest,
    outputs=outputs,
    metrics=metrics,
    counts=counts,
    intervals={
        name: (metrics[name] - HALF_WIDTHS[name], metrics[name] + HALF_WIDTHS[name])
        for name in compared
    },
    seconds=0.5,
    files=files,
    environment={"python": "3.11"},
)
write_atomically(run.path / "result.json", result.model_dump_json())
