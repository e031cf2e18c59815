"""Every metric's name and unit, in one place. A stage that logs an undeclared name fails."""

import math
from typing import NamedTuple

MAX_FUNCTIONS = 8  # reward functions that a recipe may have: each has a metric
FUNCTIONS = range(1, MAX_FUNCTIONS + 1)


class Metric(NamedTuple):
    unit: str
    meaning: str
    domain: tuple[float | None, float | None] | None = (
        None  # least and greatest value; None: what the unit allows, or no end
    )


MAX_MEMBERS = 8  # of an ensemble of reward models; each has metrics of its own

METRICS: dict[str, Metric] = {
    "tokens_per_second": Metric(
        "tokens/s", "Non-padding tokens that went through the model, per second of the step"
    ),
    "seconds_left": Metric("s", "Estimated time to the end of the stage"),
    # what a stage took of the machine, sampled from outside
    "system/stage_memory_mib": Metric(
        "MiB", "Memory of the stage's processes, shared pages counted once"
    ),
    "system/stage_gpu_memory_mib": Metric(
        "MiB", "GPU memory of the stage's processes, all devices together"
    ),
    "system/stage_cpu_percentage": Metric(
        "%", "Processor time of the stage's processes; 100 is one core"
    ),
    # prepare
    "prepare/loss": Metric("nats/token", "Language-model loss of the generated base model"),
    # validate
    "data/rows": Metric("rows", "Rows read"),
    "data/rows_kept": Metric("rows", "Rows that passed every rule"),
    "data/share_dropped": Metric("share", "Rows quarantined / rows read, worst source"),
    "data/longer_wins": Metric(
        "share", "Pairs whose chosen answer is the longer one, training split"
    ),
    "data/annotator_agreement": Metric(
        "share", "Mean share of a pair's votes that side with the majority"
    ),
    "data/demonstrations_train": Metric("rows", "Demonstrations to train on"),
    "data/demonstrations_heldout": Metric("rows", "Demonstrations held out"),
    "data/comparisons_train": Metric("rows", "Comparisons to train on"),
    "data/comparisons_heldout": Metric("rows", "Comparisons held out"),
    "data/prompts_train": Metric("rows", "Prompts for rollouts"),
    "data/prompts_heldout": Metric("rows", "Prompts for evaluation"),
    "data/errors": Metric("rules", "Rules of severity error that failed"),
    "data/warnings": Metric("rules", "Rules of severity warning that failed"),
    # sft
    "sft/loss": Metric("nats/token", "Prompt-masked cross-entropy on the step's batch"),
    "sft/lr": Metric("1/step", "Learning rate"),
    "sft/grad_norm": Metric("l2", "Global gradient norm before clipping"),
    "sft/heldout_loss_before": Metric("nats/token", "Held-out loss of the base model"),
    "sft/heldout_loss": Metric("nats/token", "Held-out loss of the SFT model"),
    "sft/heldout_improvement": Metric(
        "nats/token", "heldout_loss_before - heldout_loss", (None, None)
    ),
    # reward
    "reward/loss": Metric(
        "nats/pair", "Bradley-Terry loss on the step's batch, with margin and smoothing where set"
    ),
    "reward/centring": Metric(
        "score^2", "Mean (score(chosen) + score(rejected))^2 of the step's batch, before its weight"
    ),
    "reward/train_accuracy": Metric(
        "share", "Pairs of the step's batch ranked as labelled; a tie counts as wrong"
    ),
    "reward/margin": Metric("score", "Mean score(chosen) - score(rejected) of the step's batch"),
    "reward/lr": Metric("1/step", "Learning rate"),
    "reward/grad_norm": Metric("l2", "Global gradient norm before clipping"),
    "reward/accuracy": Metric("share", "Held-out pairwise accuracy; a tie counts as wrong"),
    "reward/accuracy_lower": Metric("share", "Lower end of its 95% Wilson interval"),
    "reward/accuracy_upper": Metric("share", "Upper end of its 95% Wilson interval"),
    "reward/accuracy_when_shorter": Metric(
        "share", "Held-out accuracy where the chosen answer is the shorter one"
    ),
    "reward/length_baseline": Metric(
        "share", "Accuracy of 'the longer answer wins' on the same held-out pairs"
    ),
    "reward/accuracy_over_length": Metric(
        "share", "reward/accuracy - reward/length_baseline", (-1, 1)
    ),
    "reward/length_correlation": Metric(
        "correlation", "Pearson's, of the pairs' differences in score and in tokens", (-1, 1)
    ),
    "reward/heldout_pairs": Metric("pairs", "Held-out comparisons scored"),
    "reward/heldout_loss": Metric("nats/pair", "Held-out Bradley-Terry loss"),
    "reward/heldout_margin": Metric("score", "Mean held-out score(chosen) - score(rejected)"),
    "reward/calibration_error": Metric(
        "share", "Expected calibration error of sigmoid(margin), 10 equal-count bins"
    ),
    "reward/score_mean": Metric("score", "Mean held-out score, chosen and rejected together"),
    "reward/score_std": Metric("score", "Standard deviation of held-out scores"),
    "reward/member": Metric(
        "member", "Which member of the ensemble the step trains", (1, MAX_MEMBERS)
    ),
    "reward/heldout_spread": Metric(
        "score", "Standard deviation over the members of a held-out score, mean", (0, None)
    ),
    **{
        f"reward/accuracy_member_{number}": Metric(
            "share", f"Held-out accuracy of member {number} of the ensemble"
        )
        for number in range(1, MAX_MEMBERS + 1)
    },
    # ppo
    "ppo/score_mean": Metric(
        "score",
        "Score of the step's responses: reward model and functions, weighed, before shaping",
    ),
    "ppo/score_std": Metric("score", "Its standard deviation over the step's responses"),
    "ppo/score_spread": Metric(
        "score", "Standard deviation of a score over the members of the ensemble, mean", (0, None)
    ),
    "ppo/reward_mean": Metric(
        "score",
        "Score minus missing-EOS penalty, minus KL penalty with kl_in = reward, per response",
    ),
    "ppo/model_score_mean": Metric(
        "score", "The reward model's part of it, before its weight; with reward functions"
    ),
    **{
        f"ppo/function_{i}_mean": Metric("score", f"Reward function {i}, before its weight")
        for i in FUNCTIONS
    },
    "ppo/score_running_mean": Metric("score", "Mean of all scores so far, what centring takes off"),
    "ppo/score_running_std": Metric(
        "score", "Their standard deviation, what scaling divides by", (0, None)
    ),
    "ppo/length_penalty_mean": Metric("score", "Length penalty a response", (0, None)),
    "ppo/kl_per_response": Metric(
        "nats", "Sum over response tokens of logpi_old - logpi_ref, mean over responses", (-1, None)
    ),
    "ppo/kl_per_token": Metric(
        "nats/token", "Mean over response tokens of logpi_old - logpi_ref", (-0.1, None)
    ),
    "ppo/kl_exact_per_response": Metric(
        "nats", "Sum over response tokens of the KL over the vocabulary, mean over responses"
    ),
    "ppo/kl_exact_per_token": Metric(
        "nats/token", "KL over the vocabulary, mean over response tokens"
    ),
    "ppo/beta": Metric("score/nat", "KL coefficient"),
    "ppo/response_tokens": Metric("tokens", "Mean response length, EOS included"),
    "ppo/eos_share": Metric("share", "Responses that ended with end-of-text"),
    "ppo/onpolicy_accuracy": Metric(
        "share", "Pairs of the policy's own fresh replies that the reward model ranks as labelled"
    ),
    "ppo/onpolicy_accuracy_start": Metric(
        "share", "The same of the SFT model's replies, before the first step"
    ),
    "ppo/onpolicy_fall": Metric("share", "onpolicy_accuracy_start - onpolicy_accuracy", (-1, 1)),
    "ppo/onpolicy_pairs": Metric("pairs", "Labelled pairs behind it, ties left out"),
    "ppo/onpolicy_margin": Metric(
        "score", "Mean |score difference| of the two replies of a fresh pair", (0, None)
    ),
    "ppo/policy_loss": Metric("score", "Clipped surrogate loss, mean over the step's minibatches"),
    "ppo/value_loss": Metric("score^2", "Clipped value loss, mean over the step's minibatches"),
    "ppo/entropy": Metric(
        "nats/token", "Policy entropy over the vocabulary, mean over response tokens"
    ),
    "ppo/policy_clip_fraction": Metric("share", "Response tokens whose ratio was clipped"),
    "ppo/value_clip_fraction": Metric("share", "Response tokens whose value was clipped"),
    "ppo/explained_variance": Metric(
        "share", "1 - Var(returns - values) / Var(returns)", (None, 1)
    ),
    "ppo/approx_kl_update": Metric(
        "nats/token", "Mean of (r - 1) - log r between new and old policy (k3)"
    ),
    "ppo/policy_updates": Metric(
        "steps", "Optimizer steps of the actor, fewer where max_kl_update stopped it"
    ),
    "ppo/ratio_max": Metric("ratio", "Largest new/old probability ratio of the step"),
    "ppo/ratio_min": Metric("ratio", "Smallest new/old probability ratio of the step"),
    "ppo/policy_grad_norm": Metric(
        "l2", "Actor gradient norm before clipping, mean over minibatches"
    ),
    "ppo/critic_grad_norm": Metric(
        "l2", "Critic gradient norm before clipping, mean over minibatches"
    ),
    "ppo/policy_lr": Metric("1/step", "Actor learning rate"),
    "ppo/critic_lr": Metric("1/step", "Critic learning rate"),
    "ppo/sampler_logprob_diff": Metric(
        "nats", "Mean |sampler - trainer| log-probability of response tokens"
    ),
    "ppo/sampler_logprob_diff_max": Metric("nats", "Largest such difference"),
    "ppo/sampler_kl": Metric(
        "nats/token", "KL of the sampler from the trainer over response tokens (k3)"
    ),
    "ppo/sampler_effective_share": Metric(
        "share", "Effective sample size of trainer / sampler token weights, over the tokens"
    ),
    "ppo/importance_mean": Metric(
        "ratio", "Weight of a token's policy loss, mean over response tokens; with importance_cap"
    ),
    "ppo/importance_capped": Metric("share", "Response tokens whose weight is at importance_cap"),
    "ppo/rollout_age": Metric(
        "steps", "Steps that the actor has learned since the weights that generated the responses"
    ),
    "ppo/seconds_rollout": Metric("s", "Generation by the sampler"),
    "ppo/seconds_scoring": Metric("s", "Old, reference, value and reward forward passes"),
    "ppo/seconds_update": Metric("s", "Optimisation of actor and critic"),
    "ppo/seconds_sync": Metric("s", "New weights into the sampler"),
    "ppo/rollout_tokens_per_second": Metric("tokens/s", "Generated tokens per second of rollout"),
    # dpo
    "dpo/loss": Metric(
        "nats/pair", "DPO loss on the step's batch; with loss = ipo in squared nats"
    ),
    "dpo/train_accuracy": Metric(
        "share", "Pairs of the step's batch that the implicit reward ranks as labelled"
    ),
    "dpo/margin": Metric(
        "score",
        "Mean implicit reward, beta (logpi - logpi_sft), of chosen - rejected in the step's batch",
    ),
    "dpo/chosen_logratio": Metric(
        "nats", "Mean logpi - logpi_sft of the step's chosen responses", (None, None)
    ),
    "dpo/rejected_logratio": Metric(
        "nats", "Mean logpi - logpi_sft of the step's rejected responses", (None, None)
    ),
    "dpo/lr": Metric("1/step", "Learning rate"),
    "dpo/grad_norm": Metric("l2", "Global gradient norm before clipping"),
    "dpo/accuracy": Metric(
        "share", "Held-out pairs that the implicit reward ranks as labelled; a tie counts as wrong"
    ),
    "dpo/accuracy_lower": Metric("share", "Lower end of its 95% Wilson interval"),
    "dpo/accuracy_upper": Metric("share", "Upper end of its 95% Wilson interval"),
    "dpo/accuracy_when_shorter": Metric(
        "share", "Held-out accuracy where the chosen answer is the shorter one"
    ),
    "dpo/length_baseline": Metric(
        "share", "Accuracy of 'the longer answer wins' on the same held-out pairs"
    ),
    "dpo/heldout_pairs": Metric("pairs", "Held-out comparisons measured"),
    "dpo/heldout_loss": Metric("nats/pair", "The same loss on held-out comparisons"),
    "dpo/heldout_margin": Metric(
        "score", "Mean implicit reward of chosen - rejected on held-out comparisons"
    ),
    "dpo/heldout_chosen_logratio": Metric(
        "nats",
        "Mean logpi - logpi_sft of held-out chosen responses; below 0 the policy "
        "moves away even from what is preferred",
        (None, None),
    ),
    "dpo/heldout_rejected_logratio": Metric(
        "nats", "Mean logpi - logpi_sft of held-out rejected responses", (None, None)
    ),
    "dpo/calibration_error": Metric(
        "share", "Expected calibration error of sigmoid(margin) over ten equal-count bins"
    ),
    # evaluate; where there is no reward model, the score is the independent scorer's
    "eval/score_policy": Metric(
        "score", "Mean reward-model score of the policy's held-out replies"
    ),
    "eval/score_sft": Metric("score", "The same for the SFT model, same prompts and seeds"),
    "eval/score_gain": Metric("score", "Paired difference policy - SFT"),
    "eval/score_gain_lower": Metric("score", "Lower end of its 95% interval (paired bootstrap)"),
    "eval/score_gain_upper": Metric("score", "Upper end of its 95% interval (paired bootstrap)"),
    "eval/win_rate": Metric("share", "Policy scores above SFT; a tie counts one half"),
    "eval/win_rate_lower": Metric("share", "Lower end of its 95% Wilson interval"),
    "eval/win_rate_upper": Metric("share", "Upper end of its 95% Wilson interval"),
    "eval/win_rate_vs_champion": Metric(
        "share", "Policy scores above the present champion; a tie counts one half"
    ),
    "eval/win_rate_vs_champion_lower": Metric("share", "Lower end of its 95% Wilson interval"),
    "eval/win_rate_vs_champion_upper": Metric("share", "Upper end of its 95% Wilson interval"),
    "eval/kl_per_response": Metric(
        "nats", "Sum of logpi - logpi_sft over the policy's own replies, mean", (-1, None)
    ),
    "eval/length_policy": Metric("tokens", "Mean reply length of the policy"),
    "eval/length_sft": Metric("tokens", "Mean reply length of the SFT model"),
    "eval/length_ratio": Metric("ratio", "length_policy / length_sft"),
    "eval/repetition_policy": Metric("share", "Repeated 3-grams / 3-grams, mean over replies"),
    "eval/repetition_sft": Metric("share", "The same for the SFT model"),
    "eval/repetition_increase": Metric("share", "repetition_policy - repetition_sft", (-1, 1)),
    "eval/no_eos_policy": Metric("share", "Replies cut at the length limit"),
    "eval/no_eos_sft": Metric("share", "The same for the SFT model"),
    "eval/heldout_loss_policy": Metric("nats/token", "Held-out SFT loss of the policy"),
    "eval/heldout_loss_sft": Metric("nats/token", "Held-out SFT loss of the SFT model"),
    "eval/alignment_tax": Metric(
        "nats/token", "heldout_loss_policy - heldout_loss_sft", (None, None)
    ),
    "eval/prompts": Metric("prompts", "Held-out prompts answered"),
    "eval/independent_policy": Metric(
        "score", "Mean of the independent scorer over the policy's replies"
    ),
    "eval/independent_sft": Metric("score", "The same for the SFT model"),
    "eval/independent_gain": Metric(
        "score", "Paired difference policy - SFT of the independent scorer"
    ),
    "eval/independent_gain_lower": Metric(
        "score", "Lower end of its 95% interval (paired bootstrap)"
    ),
    "eval/independent_gain_upper": Metric(
        "score", "Upper end of its 95% interval (paired bootstrap)"
    ),
    # evaluate: best-of-n
    "eval/score_best_of_n": Metric(
        "score", "Mean score of the best of n replies by the SFT model, picked by that score"
    ),
    "eval/independent_best_of_n": Metric(
        "score", "Mean of the independent scorer over the same replies"
    ),
    "eval/length_best_of_n": Metric("tokens", "Mean length of the same replies"),
    "eval/kl_bound_best_of_n": Metric(
        "nats", "log n - (n - 1) / n: the KL of best-of-n from the SFT model is at most that"
    ),
    "eval/win_rate_vs_best_of_n": Metric(
        "share", "Policy's reply scores above the best of n; a tie counts one half"
    ),
    "eval/win_rate_vs_best_of_n_lower": Metric("share", "Lower end of its 95% Wilson interval"),
    "eval/win_rate_vs_best_of_n_upper": Metric("share", "Upper end of its 95% Wilson interval"),
    # evaluate: reward-hacking detectors
    "eval/reward_up_independent_down": Metric(
        "share", "Prompts on which the score rose and the independent scorer's fell"
    ),
    "eval/length_correlation": Metric(
        "correlation", "Pearson's, of score and tokens of the policy's replies", (-1, 1)
    ),
    "eval/length_correlation_rank": Metric("correlation", "Spearman's, of the same", (-1, 1)),
    "eval/length_correlation_sft": Metric(
        "correlation", "Pearson's, of score and tokens of the SFT model's replies", (-1, 1)
    ),
    "eval/distinct_2": Metric(
        "share", "Distinct word 2-grams / 2-grams, all of the policy's replies together"
    ),
    "eval/distinct_2_sft": Metric("share", "The same for the SFT model"),
    "eval/distinct_2_ratio": Metric(
        "ratio", "distinct_2 / distinct_2_sft; absent when the SFT model has no 2-gram"
    ),
    "eval/distinct_3": Metric(
        "share", "Distinct word 3-grams / 3-grams, all of the policy's replies together"
    ),
    "eval/distinct_3_sft": Metric("share", "The same for the SFT model"),
    "eval/distinct_3_ratio": Metric(
        "ratio", "distinct_3 / distinct_3_sft; absent when the SFT model has no 3-gram"
    ),
    "eval/opening_share": Metric(
        "share", "Policy's replies that begin with its most frequent three words"
    ),
    "eval/opening_share_sft": Metric(
        "share", "The same for the SFT model and its most frequent three words"
    ),
    "eval/kl_per_reward": Metric(
        "nats/score", "Mean KL / mean score gain; absent when the score did not rise", (None, None)
    ),
    "eval/reward_disagreement": Metric(
        "sft std", "Spread of standardized scores over reward models, mean", (0, None)
    ),
    "eval/reward_disagreement_sft": Metric(
        "sft std", "The same for the SFT model's replies", (0, None)
    ),
    # evaluate: judge
    "eval/judge_win_rate": Metric(
        "share", "Judge prefers the policy to the SFT model in both orders; a tie counts one half"
    ),
    "eval/judge_win_rate_lower": Metric("share", "Lower end of its 95% Wilson interval"),
    "eval/judge_win_rate_upper": Metric("share", "Upper end of its 95% Wilson interval"),
    "eval/judge_ties": Metric(
        "share", "Ties among the judged pairs, contradictions between the orders among them"
    ),
    "eval/judge_position_bias": Metric("share", "Judged pairs whose winner changed with the order"),
    "eval/judge_unreadable": Metric(
        "share", "Pairs left out because an answer was none of A, B, TIE"
    ),
    "eval/judge_win_rate_vs_champion": Metric(
        "share", "Judge prefers the policy to the present champion"
    ),
    "eval/judge_win_rate_vs_champion_lower": Metric(
        "share", "Lower end of its 95% Wilson interval"
    ),
    "eval/judge_win_rate_vs_champion_upper": Metric(
        "share", "Upper end of its 95% Wilson interval"
    ),
    "eval/judge_ties_vs_champion": Metric(
        "share", "Ties among the pairs judged against the champion"
    ),
    "eval/judge_position_bias_vs_champion": Metric(
        "share", "Pairs against the champion whose winner changed with the order"
    ),
    "eval/judge_unreadable_vs_champion": Metric(
        "share", "Pairs against the champion left out for an unreadable answer"
    ),
}

# A sampled KL estimate may fall a little below zero; one far below says that something is wrong.
UNIT_DOMAINS = {"share": (0, 1)} | dict.fromkeys(
    (
        "rows",
        "rules",
        "pairs",
        "prompts",
        "steps",
        "tokens",
        "tokens/s",
        "s",
        "l2",
        "1/step",
        "nats",
        "nats/token",
        "nats/pair",
        "ratio",
        "score^2",
        "score/nat",
    ),
    (0, None),
)


def domain(name: str) -> tuple[float, float]:
    """Least and greatest value that a declared metric can have; infinite where there is no end."""
    metric = METRICS[name]
    low, high = metric.domain or UNIT_DOMAINS.get(metric.unit, (None, None))
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def require_declared(metrics: dict[str, float]) -> None:
    """Raise KeyError, naming them, when names are not in METRICS."""
    if unknown := sorted(set(metrics) - set(METRICS)):
        raise KeyError(
            f"metrics {unknown} are not declared in rlhf_core/metrics.py; declare name, unit and"
            " meaning"
        )
