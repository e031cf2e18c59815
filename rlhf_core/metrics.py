"""Every metric's name and unit, in one place. A stage that logs an undeclared name fails."""

from typing import NamedTuple


class Metric(NamedTuple):
    unit: str
    meaning: str


METRICS: dict[str, Metric] = {
    "tokens_per_second": Metric("tokens/s", "Non-padding tokens that went through the model, per second of the step"),
    "seconds_left": Metric("s", "Estimated time to the end of the stage"),
    # prepare
    "prepare/loss": Metric("nats/token", "Language-model loss of the generated base model"),
    # validate
    "data/rows": Metric("rows", "Rows read"),
    "data/rows_kept": Metric("rows", "Rows that passed every rule"),
    "data/share_dropped": Metric("share", "Rows quarantined / rows read, worst source"),
    "data/longer_wins": Metric("share", "Pairs whose chosen answer is the longer one, training split"),
    "data/annotator_agreement": Metric("share", "Mean share of a pair's votes that side with the majority"),
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
    "sft/heldout_improvement": Metric("nats/token", "heldout_loss_before - heldout_loss"),
    # reward
    "reward/loss": Metric("nats/pair", "Bradley-Terry loss on the step's batch"),
    "reward/train_accuracy": Metric("share", "Pairs of the step's batch ranked as labelled; a tie counts as wrong"),
    "reward/margin": Metric("score", "Mean score(chosen) - score(rejected) of the step's batch"),
    "reward/lr": Metric("1/step", "Learning rate"),
    "reward/grad_norm": Metric("l2", "Global gradient norm before clipping"),
    "reward/accuracy": Metric("share", "Held-out pairwise accuracy; a tie counts as wrong"),
    "reward/accuracy_lower": Metric("share", "Lower end of its 95% Wilson interval"),
    "reward/accuracy_upper": Metric("share", "Upper end of its 95% Wilson interval"),
    "reward/accuracy_when_shorter": Metric("share", "Held-out accuracy where the chosen answer is the shorter one"),
    "reward/length_baseline": Metric("share", "Accuracy of 'the longer answer wins' on the same held-out pairs"),
    "reward/accuracy_over_length": Metric("share", "reward/accuracy - reward/length_baseline"),
    "reward/heldout_pairs": Metric("pairs", "Held-out comparisons scored"),
    "reward/heldout_loss": Metric("nats/pair", "Held-out Bradley-Terry loss"),
    "reward/heldout_margin": Metric("score", "Mean held-out score(chosen) - score(rejected)"),
    "reward/calibration_error": Metric("share", "Expected calibration error of sigmoid(margin), 10 equal-count bins"),
    "reward/score_mean": Metric("score", "Mean held-out score, chosen and rejected together"),
    "reward/score_std": Metric("score", "Standard deviation of held-out scores"),
    # ppo
    "ppo/score_mean": Metric("score", "Reward-model score of the step's responses"),
    "ppo/score_std": Metric("score", "Its standard deviation over the step's responses"),
    "ppo/reward_mean": Metric("score", "Score minus KL penalty minus missing-EOS penalty, per response"),
    "ppo/kl_per_response": Metric("nats", "Sum over response tokens of logpi_old - logpi_ref, mean over responses"),
    "ppo/kl_per_token": Metric("nats/token", "Mean over response tokens of logpi_old - logpi_ref"),
    "ppo/beta": Metric("score/nat", "KL coefficient"),
    "ppo/response_tokens": Metric("tokens", "Mean response length, EOS included"),
    "ppo/eos_share": Metric("share", "Responses that ended with end-of-text"),
    "ppo/policy_loss": Metric("score", "Clipped surrogate loss, mean over the step's minibatches"),
    "ppo/value_loss": Metric("score^2", "Clipped value loss, mean over the step's minibatches"),
    "ppo/entropy": Metric("nats/token", "Policy entropy over the vocabulary, mean over response tokens"),
    "ppo/policy_clip_fraction": Metric("share", "Response tokens whose ratio was clipped"),
    "ppo/value_clip_fraction": Metric("share", "Response tokens whose value was clipped"),
    "ppo/explained_variance": Metric("share", "1 - Var(returns - values) / Var(returns)"),
    "ppo/approx_kl_update": Metric("nats/token", "Mean of (r - 1) - log r between new and old policy (k3)"),
    "ppo/ratio_max": Metric("ratio", "Largest new/old probability ratio of the step"),
    "ppo/ratio_min": Metric("ratio", "Smallest new/old probability ratio of the step"),
    "ppo/policy_grad_norm": Metric("l2", "Actor gradient norm before clipping, mean over minibatches"),
    "ppo/critic_grad_norm": Metric("l2", "Critic gradient norm before clipping, mean over minibatches"),
    "ppo/policy_lr": Metric("1/step", "Actor learning rate"),
    "ppo/critic_lr": Metric("1/step", "Critic learning rate"),
    "ppo/sampler_logprob_diff": Metric("nats", "Mean |sampler - trainer| log-probability of response tokens"),
    "ppo/sampler_logprob_diff_max": Metric("nats", "Largest such difference"),
    "ppo/seconds_rollout": Metric("s", "Generation by vLLM"),
    "ppo/seconds_scoring": Metric("s", "Old, reference, value and reward forward passes"),
    "ppo/seconds_update": Metric("s", "Optimisation of actor and critic"),
    "ppo/seconds_sync": Metric("s", "New weights into vLLM"),
    "ppo/rollout_tokens_per_second": Metric("tokens/s", "Generated tokens per second of rollout"),
    # evaluate
    "eval/score_policy": Metric("score", "Mean reward-model score of the policy's held-out replies"),
    "eval/score_sft": Metric("score", "The same for the SFT model, same prompts and seeds"),
    "eval/score_gain": Metric("score", "Paired difference policy - SFT"),
    "eval/win_rate": Metric("share", "Policy scores above SFT; a tie counts one half"),
    "eval/win_rate_lower": Metric("share", "Lower end of its 95% Wilson interval"),
    "eval/win_rate_upper": Metric("share", "Upper end of its 95% Wilson interval"),
    "eval/win_rate_vs_champion": Metric("share", "Policy scores above the present champion; a tie counts one half"),
    "eval/win_rate_vs_champion_lower": Metric("share", "Lower end of its 95% Wilson interval"),
    "eval/win_rate_vs_champion_upper": Metric("share", "Upper end of its 95% Wilson interval"),
    "eval/kl_per_response": Metric("nats", "Sum of logpi - logpi_sft over the policy's own replies, mean"),
    "eval/length_policy": Metric("tokens", "Mean reply length of the policy"),
    "eval/length_sft": Metric("tokens", "Mean reply length of the SFT model"),
    "eval/length_ratio": Metric("ratio", "length_policy / length_sft"),
    "eval/repetition_policy": Metric("share", "Repeated 3-grams / 3-grams, mean over replies"),
    "eval/repetition_sft": Metric("share", "The same for the SFT model"),
    "eval/repetition_increase": Metric("share", "repetition_policy - repetition_sft"),
    "eval/no_eos_policy": Metric("share", "Replies cut at the length limit"),
    "eval/no_eos_sft": Metric("share", "The same for the SFT model"),
    "eval/heldout_loss_policy": Metric("nats/token", "Held-out SFT loss of the policy"),
    "eval/heldout_loss_sft": Metric("nats/token", "Held-out SFT loss of the SFT model"),
    "eval/alignment_tax": Metric("nats/token", "heldout_loss_policy - heldout_loss_sft"),
    "eval/prompts": Metric("prompts", "Held-out prompts answered"),
    "eval/independent_policy": Metric("score", "Mean of the independent scorer over the policy's replies"),
    "eval/independent_sft": Metric("score", "The same for the SFT model"),
    "eval/independent_gain": Metric("score", "Paired difference policy - SFT of the independent scorer"),
    "eval/independent_gain_lower": Metric("score", "Lower end of its 95% interval (paired bootstrap)"),
    "eval/independent_gain_upper": Metric("score", "Upper end of its 95% interval (paired bootstrap)"),
}  # fmt: skip


def require_declared(metrics: dict[str, float]) -> None:
    """Raise KeyError, naming them, when names are not in METRICS."""
    if unknown := sorted(set(metrics) - set(METRICS)):
        raise KeyError(f"metrics {unknown} are not declared in rlhf_core/metrics.py; declare name, unit and meaning")
