"""Gates that no run of a recipe could decide: refused before anything runs.

Such a gate refuses whatever comes, after hours of training: its metric is not measured by this
recipe, or fewer items than its `min_n` can exist.
"""

import re
from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

from rlhf_core.benchmarks.names import benchmark_name, is_task_file, parse
from rlhf_core.config.gate_rules import GateRule
from rlhf_core.stage_catalogue import NEW_HELDOUT, gated_stages

if TYPE_CHECKING:
    from rlhf_core.config.recipe import Recipe

SUMMARY_STEPS = 5  # PPO's final metrics are means over this many last steps: one is noisy
# by the metric's beginning, the first that fits: key that limits its items, split that they are of
_ITEMS = (
    ("reward/auc", "reward.max_heldout", "feedback_heldout"),
    ("reward/heldout_rows", "reward.max_heldout", "feedback_heldout"),
    ("reward/accuracy_new", "reward.max_heldout", NEW_HELDOUT),
    ("reward/heldout_pairs_new", "reward.max_heldout", NEW_HELDOUT),
    ("reward/score_shift_new", "reward.max_heldout", NEW_HELDOUT),
    ("reward/score_distance_new", "reward.max_heldout", NEW_HELDOUT),
    ("reward/spread_ratio_new", "reward.max_heldout", NEW_HELDOUT),
    ("reward/", "reward.max_heldout", "comparisons_heldout"),
    ("kto/", None, None),  # of two kinds of rows
    ("dpo/", "dpo.max_heldout", "comparisons_heldout"),
    ("sft/", "sft.max_heldout", "demonstrations_heldout"),
    ("eval/heldout_loss", "evaluate.max_heldout", "demonstrations_heldout"),
    ("eval/alignment_tax", "evaluate.max_heldout", "demonstrations_heldout"),
    ("eval/agreement_", "evaluate.judge.agreement_pairs", "comparisons_heldout"),
    ("eval/alpha_", "evaluate.judge.agreement_pairs", "comparisons_heldout"),
    ("eval/judge_prompt_tokens", None, None),  # of answers
    ("eval/judge_completion_tokens", None, None),
    ("eval/judge_cost", None, None),
    ("eval/judge_", "evaluate.judge.max_pairs", "prompts_heldout"),
    ("eval/", "evaluate.max_prompts", "prompts_heldout"),
    ("ppo/onpolicy_judge", None, None),
    ("ppo/onpolicy_", "ppo.reward_check.pairs", None),
)
_MAX_ITEMS = "evaluate.benchmarks.max_items"
# metrics of which the number of items is the value, and a gate's least value their least number
_COUNTS = (
    "reward/heldout_pairs",
    "reward/heldout_pairs_new",
    "reward/heldout_pairs_new_before",
    "reward/heldout_rows",
    "dpo/heldout_pairs",
    "eval/prompts",
)
# own gates of the reward stage that need labels of single replies; the others need pairs
_LABEL_GATES = ("rows", "labels", "auc", "auc_lower_bound", "auc_length_baseline")


def require_decidable(recipe: "Recipe") -> None:
    """Raise ValueError for a gate that no run of the recipe could decide."""
    for name, rule in rules_of(recipe):
        for metric in filter(None, (rule.metric, rule.minus)):
            if missing := _not_measured(recipe, metric):
                raise ValueError(f"{name} is about {metric}, which is not measured: {missing}")
        most, key = most_items(recipe, rule.metric)
        if most is not None and most < rule.min_n:
            raise ValueError(
                f"{name} needs min_n {rule.min_n} items of {rule.metric}, and {key} {most} allows"
                " no more than these: the gate would refuse whatever comes; raise the second, or"
                " lower the first"
            )


def require_rows(recipe: "Recipe") -> None:
    """Raise ValueError where a stage that the recipe runs has no rows to learn from."""
    reward, learn_from = recipe.reward, recipe.reward.feedback.learn_from
    wanted = {"dpo": "comparisons"} if recipe.runs("dpo") else {}
    if recipe.runs("kto") and recipe.kto.learn_from != "mixed":
        wanted["kto.learn_from"] = recipe.kto.learn_from
    if recipe.runs("reward"):
        if learn_from != "mixed":
            wanted["reward.feedback.learn_from"] = learn_from
        if reward.margin_scale and not recipe.model.reward:
            wanted["reward.margin_scale"] = "comparisons"
        if reward.smoothing_from_votes and not recipe.model.reward:
            wanted["reward.smoothing_from_votes"] = "comparisons"
    if reward.share_prompts and "feedback" in measured_kinds(recipe):
        raise ValueError(
            "reward.share_prompts reads the two answers of a comparison together, and feedback has"
            " one; set it to false, or reward.feedback.learn_from = 'comparisons'"
        )
    for key, kind in wanted.items():
        if getattr(recipe.data, kind) is None:
            found = "align = 'dpo'" if key == "dpo" else key
            raise ValueError(
                f"{found} needs data.{kind}, which is not given; expected a file of them, or"
                " another setting"
            )


def own_gates(recipe: "Recipe", stage: str) -> dict[str, GateRule]:
    """Return the gates that a stage has by itself with this recipe, by name; {} without any.

    A reward model that is measured on pairs is judged by them. One that is measured on labels of
    single replies alone is judged by those.
    """
    section = getattr(recipe, stage, None)
    rules: dict[str, GateRule] = section.gate.rules() if section else {}
    if stage != "reward":
        return rules
    has_pairs = "comparisons" in measured_kinds(recipe)
    return {name: rule for name, rule in rules.items() if (name in _LABEL_GATES) != has_pairs}


def measured_kinds(recipe: "Recipe", stage: str = "reward") -> list[str]:
    """Return the kinds of labelled rows that 'reward' or 'kto' learns from and is measured on."""
    wanted = recipe.kto.learn_from if stage == "kto" else recipe.reward.feedback.learn_from
    kinds = [name for name in ("comparisons", "feedback") if getattr(recipe.data, name)]
    return [name for name in kinds if wanted in ("mixed", name)]


def rules_of(recipe: "Recipe") -> Iterator[tuple[str, GateRule]]:
    """Yield the key and the rule of every gate of the stages that the recipe runs."""
    for stage in gated_stages():
        if recipe.runs(stage):
            for name, rule in own_gates(recipe, stage).items():
                yield f"{stage}.gate ({name})", rule
    for name, rule in recipe.gates.items():
        yield f"gates.{name}", rule


def most_items(recipe: "Recipe", metric: str) -> tuple[int | None, str]:
    """Return the largest number of items that the metric may rest on, and the key that says so.

    None where the recipe does not limit it.
    """
    if parts := parse(metric):  # a name may be a group, with as many items for each of its tasks
        benchmarks = recipe.evaluate.benchmarks
        files = [benchmark_name(task) for task in benchmarks.tasks if is_task_file(task)]
        return benchmarks.max_items if parts.task in files else None, _MAX_ITEMS
    if metric.startswith("ppo/") and not metric.startswith("ppo/onpolicy_"):
        return _most_responses(recipe, metric)
    key = next((key for start, key, _ in _ITEMS if metric.startswith(start)), None)
    return (None, "") if key is None else (attrgetter(key)(recipe), key)


def _most_responses(recipe: "Recipe", metric: str) -> tuple[int | None, str]:
    ppo = recipe.ppo
    if metric.startswith("ppo/eval_") and ppo.evaluation:
        return ppo.evaluation.prompts * ppo.group_size, "ppo.evaluation.prompts * ppo.group_size ="
    if ppo.dynamic_sampling or metric not in ("ppo/score_mean", "ppo/kl_per_response"):
        return None, ""
    steps = min(SUMMARY_STEPS, ppo.steps)
    return ppo.rollout_batch * steps, f"ppo.rollout_batch * {steps} last steps ="


def samples_needed(recipe: "Recipe") -> list[tuple[str, str, str, int]]:
    """Return which gate needs how many rows of which held-out split, of those known by a split.

    Each entry: the gate's key, its stage, the split, the least number of rows.
    """
    found = []
    for name, rule in rules_of(recipe):
        least = rule.min_n
        if rule.metric in _COUNTS and rule.bound in ("at least", "more than"):
            threshold = rule.override.threshold if rule.override else rule.threshold
            least = max(least, int(threshold) + (rule.bound == "more than"))
        split = next((split for start, _, split in _ITEMS if rule.metric.startswith(start)), None)
        if split and not parse(rule.metric):
            found.append((name, rule.stage, split, least))
    return found


def _not_measured(recipe: "Recipe", metric: str) -> str | None:
    """Return why this recipe does not measure a declared metric; None where it does or may."""
    return next(
        (
            reason
            for pattern, measured, reason in _conditions(recipe)
            if not measured and re.match(pattern, metric)
        ),
        None,
    )


def _conditions(recipe: "Recipe") -> list[tuple[str, bool, str]]:
    """Return, by pattern of metrics, whether the recipe measures them, and else what to set."""
    evaluate, ppo, judge = recipe.evaluate, recipe.ppo, recipe.evaluate.judge
    check, chosen, given = ppo.reward_check, ppo.evaluation, recipe.model.reward is not None
    has_scorer = bool(evaluate.independent_scorer or evaluate.reward_models)
    members = recipe.reward.ensemble
    # members of a given reward model show when it is read
    too_many = [f"reward/accuracy_member_{m}$" for m in range(members + 1 if members > 1 else 1, 9)]
    return [
        (r"eval/(judge|agreement|alpha)_", judge is not None, "set evaluate.judge"),
        (
            r"eval/(agreement|alpha)_",
            judge is None or judge.agreement_pairs > 0,
            "evaluate.judge.agreement_pairs is 0",
        ),
        (
            r"eval/(agreement|alpha)_(judge_reward|reward_people)",
            recipe.has_reward,
            "there is no reward model",
        ),
        *_conditions_of_labels(recipe),
        (r"eval/judge_cost", judge is None or judge.prompt_price is not None, "set its prices"),
        (r"eval/independent_", has_scorer, "set evaluate.independent_scorer"),
        (r"eval/reward_up_independent_down", has_scorer, "set evaluate.independent_scorer"),
        (r"eval/.*best_of_n", evaluate.best_of_n is not None, "set evaluate.best_of_n"),
        (
            r"eval/reward_disagreement",
            bool(evaluate.reward_models) or members > 1 or given,
            "set evaluate.reward_models, or reward.ensemble to 2 or more",
        ),
        ("|".join(too_many) or "(?!)", given, f"reward.ensemble is {members}"),
        (r"reward/heldout_spread", given or members > 1, f"reward.ensemble is {members}"),
        (r"ppo/onpolicy_", check is not None, "set ppo.reward_check"),
        (
            r"ppo/onpolicy_(accuracy|fall|pairs|judge)",
            check is None or check.judge is not None,
            "set ppo.reward_check.judge, which labels the pairs",
        ),
        (r"ppo/(eval_|kept_step)", chosen is not None, "set ppo.evaluation"),
        (
            r"ppo/eval_independent",
            chosen is None or bool(chosen.scorer or evaluate.independent_scorer),
            "set ppo.evaluation.scorer",
        ),
        (r"ppo/.*_sampled", ppo.dynamic_sampling is not None, "set ppo.dynamic_sampling"),
    ]


def _conditions_of_labels(recipe: "Recipe") -> list[tuple[str, bool, str]]:
    """Return those of `_conditions` that ask for comparisons or for feedback."""
    kinds, has_pairs = measured_kinds(recipe), recipe.data.comparisons is not None
    of_labels = r"reward/(auc|heldout_rows|heldout_rarer|label_)"
    no_pairs = "the reward model is measured on no comparisons"
    has_new = bool(recipe.data.new_comparisons)
    of_drift = r"reward/(.*_new_(before|gain)|(score_shift|score_distance|spread_ratio)_new)"
    of_new = rf"reward/(accuracy|heldout_pairs)_new|{of_drift}"
    return [
        (of_new, has_new, "give data.new_comparisons"),
        (of_new, "comparisons" in kinds, no_pairs),
        (of_drift, recipe.reward.measures_before, "set reward.before or reward.start"),
        (of_labels, "feedback" in kinds, "the reward model is measured on no feedback"),
        (rf"(?!{of_labels})reward/", "comparisons" in kinds, no_pairs),
        (r"kto/accuracy", has_pairs, "there is no data.comparisons"),
        (r"eval/(agreement|alpha)_", has_pairs, "there is no data.comparisons"),
    ]
