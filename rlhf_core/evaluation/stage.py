"""The evaluation stage: policy, SFT model and champion answer the same held-out prompts.

The same prompt has the same seed for every model.
"""

from pathlib import Path

from torch import Tensor

from rlhf_core.batching.batch import subset
from rlhf_core.config import Evaluate
from rlhf_core.config.stage_configs import EvaluateStageConfig
from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer, require_same_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.evaluation import best_of_n
from rlhf_core.evaluation.comparison import (
    combined,
    compare_by_champions_reward,
    compare_independent,
    compare_replies,
    compare_with_best,
)
from rlhf_core.evaluation.detector_report import write_report
from rlhf_core.evaluation.detectors import detect
from rlhf_core.evaluation.items import item_columns, member_columns, write_samples
from rlhf_core.evaluation.judge_agreement import LabelledPairs, judge_labelled, labelled_pairs
from rlhf_core.evaluation.judged import judge_replies
from rlhf_core.evaluation.replies import Replies, Setup, generate_replies
from rlhf_core.evaluation.scoring import (
    ScoresByModel,
    best_draws,
    independent_scores,
    load_frozen_policy,
    response_kl,
    reward_scores,
)
from rlhf_core.evidence.items import Columns, prompt_id
from rlhf_core.judging.functions import Scorer
from rlhf_core.judging.judge import load_judge
from rlhf_core.judging.judge_metrics import usage_output
from rlhf_core.judging.verdicts import AskJudge
from rlhf_core.named_functions import REWARDS, load_function
from rlhf_core.ranks import is_rank_zero
from rlhf_core.rundir import BENCHMARK_RESULTS, Output, RunDir, StageSpec, merged
from rlhf_core.sft import fall_interval, heldout_losses, load_sequences
from rlhf_core.statistics.clusters import clusters_of

STEPS = 6  # answer, score, KL, held-out loss, judge, report
MODELS = ("policy", "sft", "champion")


def run(spec: StageSpec[EvaluateStageConfig], run: RunDir) -> Output:
    """Compare the policy with the SFT model, and with the champion when one is given.

    Writes items, detectors and samples.
    """
    config = spec.config.evaluate
    scorer, judge = _outside_functions(config, run.path)
    setup, models, reward_models = _setup(spec, config)
    replies, draws = generate_replies(setup, models)
    if draws:
        replies[best_of_n.NAME] = best_draws(setup, reward_models[0], draws)
    run.log(1, STEPS, {})
    members = [reward_scores(setup, path, replies) for path in reward_models]
    scores = [{name: scores_MN.mean(0) for name, scores_MN in found.items()} for found in members]
    by_champions = _by_champions_reward(spec, setup, replies)
    independent = scores[1] if len(scores) > 1 else {}
    if scorer:
        independent = independent_scores(setup, scorer, replies)
    if "reward" not in spec.inputs:
        scores.insert(0, independent)
    run.log(2, STEPS, {})
    labelled = labelled_pairs(spec)
    kl_N, divergence = _divergence_and_tax(spec, run, setup, replies["policy"])
    benchmarks = _benchmarks(spec, run, setup, models)
    if not is_rank_zero():
        return Output()
    columns = item_columns(setup, replies, scores, independent) | {"policy_kl": kl_N.tolist()}
    clusters = clusters_of(columns["prompt_id"])
    if "reward" in spec.inputs:
        columns |= member_columns(members[0])
    columns |= {f"{name}_by_champions_reward": s_N.tolist() for name, s_N in by_champions.items()}
    parts = [
        compare_replies(replies, scores[0], spec.seed, clusters),
        divergence,
        compare_by_champions_reward(by_champions, clusters),
        compare_independent(independent, spec.seed, clusters),
        compare_with_best(replies, scores[0], independent, len(draws), clusters),
    ]
    if judge:
        judged, outcomes = _judged(setup, judge, replies, columns["prompt_id"], labelled, run.path)
        parts.append(judged)
        columns |= outcomes
    run.log(5, STEPS, {})
    parts += [_detected(columns, run.path), *(measured for measured, _ in benchmarks.values())]
    further = {name: items for name, (_, items) in benchmarks.items()}
    parts.append(write_samples(columns, further, replies, scores[0], config.samples, run.path))
    run.log(STEPS, STEPS, {})
    return combined(parts, len(setup.rows))


def _outside_functions(config: Evaluate, folder: Path) -> tuple[Scorer | None, AskJudge | None]:
    """Load the independent scorer and the judge, where configured, on rank 0.

    They are loaded before the work, so that a wrong name or a missing key shows at once. All ranks
    generate and score; rank 0 alone calls these functions.
    """
    scorer = judge = None
    if config.independent_scorer:
        scorer = load_function(config.independent_scorer, "independent scorer", REWARDS)
    if config.judge:
        judge = load_judge(config.judge, folder)
    return (scorer, judge) if is_rank_zero() else (None, None)


def _setup(
    spec: StageSpec[EvaluateStageConfig], config: Evaluate
) -> tuple[Setup, dict[str, Path], list[Path]]:
    """Return the setup, the models that reply, and the reward models, the main one first if any.

    Raises BadInput when nothing can score replies, or the SFT model reads other token ids than the
    policy. The champion is prompted by its own template.
    """
    paths = {name: item.path for name, item in spec.inputs.items()}
    names = [name for name in MODELS if name in paths]
    main = ["reward"] if "reward" in paths else []
    if not main and not config.independent_scorer:
        raise BadInput(
            "evaluate has no reward model and no evaluate.independent_scorer; expected one that"
            " scores replies"
        )
    require_same_tokenizer(paths["policy"], paths["sft"], "sft")
    further = _further_reward_models(spec)
    drawn_by = spec.config.heldout_seed(spec.seed)
    rows = subset(load_split(paths["prompts_heldout"]), config.max_prompts, seed=drawn_by)
    _require_different(rows)
    tokenizer, others = load_tokenizer(paths["policy"]), {}
    if "champion" in paths:
        others["champion"] = load_tokenizer(paths["champion"])
    setup = Setup(
        tokenizer,
        rows,
        config,
        spec.seed,
        spec.config.dtype,
        others,
        drawn_by,
        spec.config.logits_mib,
        spec.config.frozen_dtype,
    )
    return setup, {name: paths[name] for name in names}, [paths[name] for name in (*main, *further)]


def _by_champions_reward(
    spec: StageSpec, setup: Setup, replies: dict[str, Replies]
) -> ScoresByModel:
    """Return the scores of policy and champion by the champion's own reward model, (N,) each.

    Empty where there is none, or the policy was trained with the same one. An ensemble scores by
    its mean.
    """
    if "champion_reward" not in spec.inputs:
        return {}
    both = {name: replies[name] for name in ("policy", "champion")}
    found = reward_scores(setup, spec.inputs["champion_reward"].path, both)
    return {name: scores_MN.mean(0) for name, scores_MN in found.items()}


def _require_different(rows: list[dict]) -> None:
    """Raise BadInput for one prompt that is repeated, because no interval rests on it."""
    if len(rows) > 1 and len({prompt_id(row["prompt"]) for row in rows}) == 1:
        raise BadInput(
            f"all {len(rows)} held-out prompts are the same; expected at least 2 different ones,"
            " because an interval rests on how prompts differ. Set data.rules.duplicates ="
            " 'warning', or add prompts."
        )


def _further_reward_models(spec: StageSpec) -> list[str]:
    """Return the inputs reward_2, ... in order. Raises BadInput for the main reward model again."""
    names = [name for name in spec.inputs if name.startswith("reward_")]
    main = spec.inputs.get("reward")
    names.sort(key=lambda name: int(name.rpartition("_")[2]))
    for name in names:
        if main and spec.inputs[name].digest == main.digest:
            raise BadInput(
                f"evaluate.reward_models: {spec.inputs[name].path} is the main reward model itself;"
                " expected another one"
            )
    return names


def _divergence_and_tax(
    spec: StageSpec[EvaluateStageConfig], run: RunDir, setup: Setup, policy: Replies
) -> tuple[Tensor, Output]:
    """Return the KL of the policy from the SFT model, (N,), and its metrics.

    The KL is over the policy's replies. The metrics include both models' held-out SFT loss.
    """
    pad_id, budget = setup.tokenizer.pad_token_id, setup.config.micro_batch_tokens
    path = spec.inputs["demonstrations_heldout"].path
    heldout = load_sequences(
        setup.tokenizer,
        path,
        setup.config.max_heldout,
        seed=spec.config.heldout_seed(spec.seed),
        train_on=spec.config.train_on,
    )
    paths = {k: spec.inputs[k].path for k in ("policy", "sft")}
    forward = {k: load_frozen_policy(setup, path) for k, path in paths.items()}
    kl_N, kl = response_kl(setup, forward["policy"], forward["sft"], policy.sequences)
    run.log(3, STEPS, {})
    packing = setup.config.packing
    losses = {
        k: heldout_losses(one, heldout, pad_id, budget, packing=packing)
        for k, one in forward.items()
    }
    run.log(4, STEPS, {})
    metrics = {
        "eval/kl_per_response": kl,
        "eval/heldout_loss_policy": losses["policy"].mean,
        "eval/heldout_loss_sft": losses["sft"].mean,
        "eval/alignment_tax": losses["policy"].mean - losses["sft"].mean,
    }
    tax = fall_interval(losses["policy"], losses["sft"])
    intervals = {"eval/alignment_tax": tax} if tax else {}
    counts = {name: len(heldout) for name in metrics if name != "eval/kl_per_response"}
    return kl_N, Output(metrics=metrics, counts=counts, intervals=intervals)


def _benchmarks(
    spec: StageSpec[EvaluateStageConfig], run: RunDir, setup: Setup, models: dict[str, Path]
) -> dict[str, tuple[Output, Columns]]:
    """Return the metrics and the items of each benchmark, by its name."""
    if not setup.config.benchmarks.tasks:
        return {}
    # imports lm-eval, which a recipe without benchmarks does not need
    from rlhf_core.evaluation.benchmarks.comparison import benchmark_columns, compare_benchmark
    from rlhf_core.evaluation.benchmarks.results import benchmark_results

    found = benchmark_results(spec, setup, models, run.path.parent / BENCHMARK_RESULTS)
    return {
        name: (compare_benchmark(name, items, spec.seed), benchmark_columns(items))
        for name, items in found.items()
    }


def _judged(
    setup: Setup,
    ask: AskJudge,
    replies: dict[str, Replies],
    prompt_ids: list[str],
    labelled: LabelledPairs | None,
    folder: Path,
) -> tuple[Output, Columns]:
    """Return what the judge says, by metric and by item, of replies and of labelled pairs."""
    assert setup.config.judge is not None  # it was loaded from this configuration
    found, columns, verdicts = judge_replies(setup, ask, replies, prompt_ids)
    parts = [found]
    if labelled:
        agreed, further = judge_labelled(labelled, ask, folder)
        parts.append(agreed)
        verdicts = verdicts + further
    parts.append(usage_output(verdicts, setup.config.judge, "eval/"))
    return merged(parts), columns


def _detected(columns: Columns, folder: Path) -> Output:
    found = detect(columns)
    reports = [Output(files=write_report(detection, columns, folder)) for detection in found]
    parts = [Output(metrics=each.metrics, intervals=each.intervals) for each in found]
    return combined([*parts, *reports], len(columns["prompt_id"]))
