"""Evaluation on held-out prompts: policy, SFT model and champion answer the same prompts with the
same seeds.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from rlhf_core.batching.batch import subset
from rlhf_core.config import Evaluate
from rlhf_core.data.render import prompt_text
from rlhf_core.data.splits import load_split
from rlhf_core.errors import BadInput
from rlhf_core.evaluation import best_of_n
from rlhf_core.evaluation.detector_report import report
from rlhf_core.evaluation.detectors import detect
from rlhf_core.evaluation.ngrams import repetition
from rlhf_core.evaluation.replies import (
    Replies,
    Setup,
    generate_replies,
    response_kl,
    reward_scores,
)
from rlhf_core.evidence.figures import score_figure
from rlhf_core.evidence.items import Columns, item_id, last_user_turn, write_items
from rlhf_core.judging import judge as judging
from rlhf_core.judging.functions import JudgeFunction, Scorer, call, load_function
from rlhf_core.modeling.models import inference, load_policy, load_tokenizer, require_same_tokenizer
from rlhf_core.ranks import is_rank_zero
from rlhf_core.rundir import Output, RunDir, StageSpec, merged
from rlhf_core.sft import heldout_loss, load_sequences
from rlhf_core.statistics.paired import bootstrap_mean, win_rate

STEPS = 6  # answer, score, KL, held-out loss, judge, report
MODELS = ("policy", "sft", "champion")
ScoresByModel = dict[str, Tensor]  # (N,) by model


def run(spec: StageSpec, run: RunDir) -> Output:
    """Compare the policy with the SFT model (and the champion, when one is given); write items,
    detectors and samples.
    """
    config = Evaluate.model_validate(spec.config["evaluate"])
    scorer = (
        load_function(config.independent_scorer, "independent scorer")
        if config.independent_scorer
        else None
    )
    ask = (
        judging.load_judge(config.judge) if config.judge else None
    )  # a wrong name or missing key shows before the work
    if not is_rank_zero():  # all ranks answer and score, one asks others
        scorer = ask = None
    setup, models, reward_models = _setup(spec, config)
    replies, draws = generate_replies(setup, models)
    if draws:
        replies[best_of_n.NAME] = _best(setup, reward_models[0], draws)
    run.log(1, STEPS, {})
    members = [reward_scores(setup, path, replies) for path in reward_models]
    scores = [{name: scores_MN.mean(0) for name, scores_MN in found.items()} for found in members]
    independent = (
        _independent(setup, scorer, replies) if scorer else scores[1] if len(scores) > 1 else {}
    )
    if "reward" not in spec.inputs:
        scores.insert(0, independent)
    run.log(2, STEPS, {})
    kl_N, measured = _divergence_and_tax(spec, run, setup, replies["policy"])
    if not is_rank_zero():
        return Output()
    columns = _columns(setup, replies, scores, independent) | {"policy_kl": kl_N.tolist()}
    if "reward" in spec.inputs:
        columns |= _member_columns(members[0])
    parts = [
        _paired(replies, scores[0], spec.seed),
        measured,
        _independent_gain(independent, spec.seed),
    ]
    parts.append(_against_best(replies, scores[0], independent, len(draws)))
    if ask:
        judged, outcomes = _judged(setup, ask, replies)
        parts.append(judged)
        columns |= outcomes
    run.log(5, STEPS, {})
    parts += [
        _detected(columns, run.path),
        _written(columns, replies, scores[0], config.samples, run.path),
    ]
    run.log(STEPS, STEPS, {})
    return _together(parts, len(setup.rows))


def _setup(spec: StageSpec, config: Evaluate) -> tuple[Setup, dict[str, Path], list[Path]]:
    """What is asked, of which models, and the folders of the reward models, the main one first if
    there is one.

    Raises BadInput when nothing can score replies, or a model reads other token ids than the
    policy.
    """
    paths = {name: item.path for name, item in spec.inputs.items()}
    names = [name for name in MODELS if name in paths]
    main = ["reward"] if "reward" in paths else []
    if not main and not config.independent_scorer:
        raise BadInput(
            "evaluate has no reward model and no evaluate.independent_scorer; expected one that"
            " scores replies"
        )
    for name in (*names[1:], *main):
        require_same_tokenizer(paths["policy"], paths[name], name)
    further = sorted(
        (name for name in paths if name.startswith("reward_")),
        key=lambda name: int(name.rpartition("_")[2]),
    )
    if twice := [
        name
        for name in further
        if main and spec.inputs[name].digest == spec.inputs["reward"].digest
    ]:
        raise BadInput(
            f"evaluate.reward_models: {paths[twice[0]]} is the main reward model itself; expected"
            " another one"
        )
    rows = subset(load_split(paths["prompts_heldout"]), config.max_prompts, seed=spec.seed)
    setup = Setup(load_tokenizer(paths["policy"]), rows, config, spec.seed, spec.config["dtype"])
    return setup, {name: paths[name] for name in names}, [paths[name] for name in (*main, *further)]


def _best(setup: Setup, reward_model: Path, draws: list[Replies]) -> Replies:
    """Of each prompt's draws the best by the main reward model, an ensemble by its mean."""
    scored = reward_scores(setup, reward_model, {str(k): draw for k, draw in enumerate(draws)})
    return best_of_n.best(draws, torch.stack([scores_MN.mean(0) for scores_MN in scored.values()]))


def _columns(
    setup: Setup,
    replies: dict[str, Replies],
    scores: list[ScoresByModel],
    independent: ScoresByModel,
) -> Columns:
    columns: Columns = {
        "prompt_id": [item_id(prompt_text(setup.tokenizer, row["prompt"])) for row in setup.rows],
        "prompt": [last_user_turn(row["prompt"]) for row in setup.rows],
    }
    for name, replied in replies.items():
        columns |= {
            f"{name}_reply": replied.texts,
            f"{name}_score": scores[0][name].tolist(),
            f"{name}_tokens": replied.tokens,
            f"{name}_ended": replied.ended,
            f"{name}_repetition": [repetition(s.response) for s in replied.sequences],
        }
        columns |= {
            f"{name}_score_{m}": further[name].tolist()
            for m, further in enumerate(scores[1:], start=2)
        }
        if independent:
            columns[f"{name}_independent"] = independent[name].tolist()
    return columns


def _member_columns(scores: dict[str, Tensor]) -> Columns:
    """The scores of each member of the main reward model, when it is an ensemble."""
    many = {name: scores_MN for name, scores_MN in scores.items() if len(scores_MN) > 1}
    return {
        f"{name}_member_{m}": s.tolist()
        for name, scores_MN in many.items()
        for m, s in enumerate(scores_MN, start=1)
    }


def _paired(replies: dict[str, Replies], scores: ScoresByModel, seed: int) -> Output:
    policy, sft, n = replies["policy"], replies["sft"], len(scores["policy"])
    length = {name: sum(replied.tokens) / n for name, replied in replies.items()}
    repeated = {
        name: sum(repetition(s.response) for s in replied.sequences) / n
        for name, replied in replies.items()
    }
    gain_N = scores["policy"] - scores["sft"]
    metrics = {
        "eval/prompts": n,
        "eval/score_policy": float(scores["policy"].mean()),
        "eval/score_sft": float(scores["sft"].mean()),
        "eval/length_policy": length["policy"],
        "eval/length_sft": length["sft"],
        "eval/length_ratio": length["policy"] / length["sft"],
        "eval/repetition_policy": repeated["policy"],
        "eval/repetition_sft": repeated["sft"],
        "eval/repetition_increase": repeated["policy"] - repeated["sft"],
        "eval/no_eos_policy": 1 - sum(policy.ended) / n,
        "eval/no_eos_sft": 1 - sum(sft.ended) / n,
    }
    bounded = {"eval/score_gain": (float(gain_N.mean()), bootstrap_mean(gain_N, seed=seed))}
    bounded["eval/win_rate"] = win_rate(scores["policy"], scores["sft"])
    if "champion" in scores:
        bounded["eval/win_rate_vs_champion"] = win_rate(scores["policy"], scores["champion"])
    return _together(
        [Output(metrics=metrics), *(_bounded(name, *found) for name, found in bounded.items())], n
    )


def _against_best(
    replies: dict[str, Replies], scores: ScoresByModel, independent: ScoresByModel, n: int
) -> Output:
    """The baseline of the best of n replies, and how often the policy scores above it."""
    if not n:
        return Output()
    metrics = {
        "eval/score_best_of_n": float(scores[best_of_n.NAME].mean()),
        "eval/length_best_of_n": sum(replies[best_of_n.NAME].tokens) / len(scores["policy"]),
        "eval/kl_bound_best_of_n": best_of_n.kl_bound(n),
    }
    if independent:
        metrics["eval/independent_best_of_n"] = float(independent[best_of_n.NAME].mean())
    rate = _bounded(
        "eval/win_rate_vs_best_of_n", *win_rate(scores["policy"], scores[best_of_n.NAME])
    )
    return _together([Output(metrics=metrics), rate], len(scores["policy"]))


def _divergence_and_tax(
    spec: StageSpec, run: RunDir, setup: Setup, policy: Replies
) -> tuple[Tensor, Output]:
    """KL of the policy from the SFT model on the policy's replies, (N,), and both models' held-out
    SFT loss.
    """
    pad_id, budget = setup.tokenizer.pad_token_id, setup.config.micro_batch_tokens
    path = spec.inputs["demonstrations_heldout"].path
    heldout = load_sequences(setup.tokenizer, path, setup.config.max_heldout, spec.seed)
    paths, frozen = {k: spec.inputs[k].path for k in ("policy", "sft")}, setup.config.frozen
    forward = {
        k: inference(load_policy(path), dtype=setup.dtype, frozen=frozen)
        for k, path in paths.items()
    }
    kl_N, kl = response_kl(setup, forward["policy"], forward["sft"], policy.sequences)
    run.log(3, STEPS, {})
    losses = {k: heldout_loss(forward[k], heldout, pad_id, budget) for k in forward}
    run.log(4, STEPS, {})
    metrics = {
        "eval/kl_per_response": kl,
        "eval/heldout_loss_policy": losses["policy"],
        "eval/heldout_loss_sft": losses["sft"],
        "eval/alignment_tax": losses["policy"] - losses["sft"],
    }
    return kl_N, Output(metrics=metrics)


def _independent(setup: Setup, scorer: Scorer, replies: dict[str, Replies]) -> ScoresByModel:
    prompts = [row["prompt"][-1]["content"] for row in setup.rows]
    values = {
        name: call(scorer, "independent scorer", prompts, replied.texts)
        for name, replied in replies.items()
    }
    return {name: torch.tensor(found, dtype=torch.float64) for name, found in values.items()}


def _independent_gain(scores: ScoresByModel, seed: int) -> Output:
    if not scores:
        return Output()
    gain_N = scores["policy"] - scores["sft"]
    means = Output(
        metrics={
            f"eval/independent_{name}": float(scores[name].mean()) for name in ("policy", "sft")
        }
    )
    gain = _bounded(
        "eval/independent_gain", float(gain_N.mean()), bootstrap_mean(gain_N, seed=seed)
    )
    return _together([means, gain], len(gain_N))


def _judged(
    setup: Setup, ask: JudgeFunction, replies: dict[str, Replies]
) -> tuple[Output, Columns]:
    """The judge's comparison with the SFT model and the champion, and its outcome by item (None:
    not judged).
    """
    rows = judging.judged_rows(len(setup.rows), setup.config.judge.max_pairs, seed=setup.seed)
    prompts = [judging.conversation(setup.rows[i]["prompt"]) for i in rows]
    ours, parts, columns = [replies["policy"].texts[i] for i in rows], [], {}
    for name in [name for name in replies if name in MODELS[1:]]:
        verdicts = judging.compare(ask, prompts, ours, [replies[name].texts[i] for i in rows])
        parts.append(judging.judge_output(verdicts, "" if name == "sft" else f"_vs_{name}"))
        outcome = {i: verdict.outcome for i, verdict in zip(rows, verdicts, strict=True)}
        columns[f"judge_vs_{name}"] = [outcome.get(i) for i in range(len(setup.rows))]
    return _together(parts, len(rows)), columns


def _detected(columns: Columns, folder: Path) -> Output:
    found = detect(columns)
    files = [report(detection, columns, folder) for detection in found]
    parts = [
        Output(metrics=detection.metrics, intervals=detection.intervals) for detection in found
    ]
    return _together([*parts, *(Output(files=names) for names in files)], len(columns["prompt_id"]))


def _written(
    columns: Columns, replies: dict[str, Replies], scores: ScoresByModel, count: int, folder: Path
) -> Output:
    shown = ["prompt", *(f"{name}_{kind}" for name in replies for kind in ("reply", "score"))]
    shown += [f"{name}_independent" for name in replies if f"{name}_independent" in columns]
    rounded = [
        [round(v, 4) if isinstance(v, float) else v for v in columns[name][:count]]
        for name in shown
    ]
    data = [list(row) for row in zip(*rounded, strict=True)]
    table = json.dumps({"columns": shown, "data": data}, ensure_ascii=False, indent=1)
    (folder / "samples.table.json").write_text(table)
    score_figure(scores["policy"], scores["sft"], folder / "scores.png")
    return Output(
        files={"samples": "samples.table.json", "scores": "scores.png"}
        | write_items(folder, columns)
    )


def _bounded(name: str, value: float, interval: tuple[float, float]) -> Output:
    metrics = {name: value, f"{name}_lower": interval[0], f"{name}_upper": interval[1]}
    return Output(metrics=metrics, intervals={name: interval, f"{name}_lower": interval})


def _together(parts: list[Output], n: int) -> Output:
    """The parts as one; a metric that names no sample size has `n`."""
    whole = merged(parts)
    return whole.model_copy(update={"counts": dict.fromkeys(whole.metrics, n) | whole.counts})
