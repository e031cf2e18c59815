"""Every metric by stage: name without prefix, unit, meaning, and a domain if not the unit's."""

MAX_FUNCTIONS = MAX_MEMBERS = 8  # reward functions of a recipe, reward models in an ensemble
FUNCTIONS, MEMBERS = range(1, MAX_FUNCTIONS + 1), range(1, MAX_MEMBERS + 1)

Domain = tuple[float | None, float | None]  # least and greatest value; None: no end
ANY: Domain = (None, None)

MetricRows = dict[str, tuple[str, str] | tuple[str, str, Domain]]  # by name without its prefix

BALANCE = ("experts", "Load-balancing loss of a mixture of experts; even: experts per token")

# in the metrics of every stage that trains
ANY_STAGE_METRICS: MetricRows = {
    "tokens_per_second": ("tokens/s", "Non-padding tokens through the model, per second of a step"),
    "seconds_left": ("s", "Estimated time to the end of the stage"),
}

# what a stage uses of the machine, sampled from outside
SYSTEM_METRICS: MetricRows = {
    "stage_memory_mib": ("MiB", "Memory of the stage's processes, shared pages counted once"),
    "stage_gpu_memory_mib": ("MiB", "GPU memory of the stage's processes, all devices together"),
    "stage_cpu_percentage": ("%", "Processor time of the stage's processes; 100 is one core"),
    "stage_gpu_joules": (
        "J",
        "Energy since the last sample of the GPUs that the stage may use; absent if not measured",
    ),
    "processor_joules": (
        "J",
        "Energy since the last sample of the machine's processors; absent if not measured",
    ),
    "stage_gpus": ("devices", "GPUs that the stage may use; absent on a machine without any"),
}

PREPARE_METRICS: MetricRows = {"loss": ("nats/token", "Loss of the generated base model")}

DATA_METRICS: MetricRows = {
    "rows": ("rows", "Rows read"),
    "rows_kept": ("rows", "Rows that passed every rule"),
    "share_dropped": ("share", "Rows quarantined / rows read, worst source"),
    "rows_truncated": ("rows", "Rows whose prompt data.overlong = truncate_left has shortened"),
    "rows_reserved": ("rows", "Rows of later held-out folds, which train and measure nothing"),
    "near_duplicates": ("rows", "Training rows whose prompt nearly repeats a held-out one"),
    "longer_wins": ("share", "Pairs whose chosen answer is the longer one, training split"),
    "annotator_agreement": ("share", "Mean share of a pair's votes that side with the majority"),
    "annotator_alpha": ("alpha", "Krippendorff's alpha of the votes; 0: as by guessing", (-1, 1)),
    "annotator_alpha_lower": ("alpha", "Lower end of its 95% interval (bootstrap)", (-1, 1)),
    "annotator_alpha_upper": ("alpha", "Upper end of its 95% interval (bootstrap)", (-1, 1)),
    "up_share": ("share", "Replies of the feedback with thumbs up, training split"),
    "longer_up": (
        "share",
        "Probability that a thumbs-up reply is longer than a thumbs-down one, training split",
    ),
    "demonstrations_train": ("rows", "Demonstrations to train on"),
    "demonstrations_heldout": ("rows", "Demonstrations held out"),
    "comparisons_train": ("rows", "Comparisons to train on"),
    "comparisons_heldout": ("rows", "Comparisons held out"),
    "feedback_train": ("rows", "Replies with a label to train on"),
    "feedback_heldout": ("rows", "Replies with a label held out"),
    "new_comparisons_train": ("rows", "Pairs of data.new_comparisons to train on"),
    "new_comparisons_heldout": ("rows", "Pairs of data.new_comparisons held out"),
    "rows_relabelled": ("rows", "Comparisons left out: a later file labels them again"),
    "rows_heldout_with_new": (
        "rows",
        "Training labels left out: their prompt is held out with new comparisons",
    ),
    "prompts_train": ("rows", "Prompts for rollouts"),
    "prompts_heldout": ("rows", "Prompts for evaluation"),
    "errors": ("rules", "Rules of severity error that failed"),
    "warnings": ("rules", "Rules of severity warning that failed"),
}

SFT_METRICS: MetricRows = {
    "loss": ("nats/token", "Prompt-masked cross-entropy on the step's batch"),
    "router_loss": BALANCE,
    "lr": ("1/step", "Learning rate"),
    "grad_norm": ("l2", "Global gradient norm before clipping"),
    "heldout_loss_before": ("nats/token", "Held-out loss of the base model"),
    "heldout_loss": ("nats/token", "Held-out loss of the SFT model"),
    "heldout_improvement": ("nats/token", "heldout_loss_before - heldout_loss", ANY),
}

REWARD_METRICS: MetricRows = {
    "loss": (
        "nats/pair",
        "Bradley-Terry loss on the step's batch, with margin and smoothing where set",
    ),
    "centring": (
        "score^2",
        "Mean (score(chosen) + score(rejected))^2 of the step's batch, before its weight",
    ),
    "train_accuracy": ("share", "Pairs of the step's batch ranked as labelled; a tie is wrong"),
    "margin": ("score", "Mean score(chosen) - score(rejected) of the step's batch"),
    "router_loss": BALANCE,
    "lr": ("1/step", "Learning rate"),
    "grad_norm": ("l2", "Global gradient norm before clipping"),
    "accuracy": ("share", "Held-out pairwise accuracy; a tie is wrong"),
    "accuracy_lower": ("share", "Lower end of its 95% Wilson interval"),
    "accuracy_upper": ("share", "Upper end of its 95% Wilson interval"),
    "accuracy_when_shorter": ("share", "Held-out accuracy where the chosen answer is shorter"),
    "length_baseline": ("share", "Accuracy of 'the longer answer wins' on the same held-out pairs"),
    "accuracy_over_length": ("share", "reward/accuracy - reward/length_baseline", (-1, 1)),
    "length_correlation": (
        "correlation",
        "Pearson's r of a pair's differences in score and in tokens",
        (-1, 1),
    ),
    "heldout_pairs": ("pairs", "Held-out comparisons scored"),
    "heldout_prompts": ("prompts", "Different prompts of the held-out comparisons"),
    "heldout_loss": ("nats/pair", "Held-out Bradley-Terry loss"),
    "heldout_margin": ("score", "Mean held-out score(chosen) - score(rejected)"),
    "calibration_error": (
        "share",
        "Expected calibration error of sigmoid(margin), 10 equal-count bins",
    ),
    "score_mean": ("score", "Mean held-out score, chosen and rejected together"),
    "score_std": ("score", "Standard deviation of held-out scores"),
    "member": ("member", "Number of the ensemble's member that the step trains", (1, MAX_MEMBERS)),
    "heldout_spread": ("score", "Mean standard deviation of a held-out score by member", (0, None)),
    **{
        f"accuracy_member_{i}": ("share", f"Held-out accuracy of member {i} of the ensemble")
        for i in MEMBERS
    },
}

PPO_METRICS: MetricRows = {
    "score_mean": (
        "score",
        "Score of the step's responses: weighted sum of reward model and functions, before shaping",
    ),
    "score_std": ("score", "Its standard deviation over the step's responses"),
    "score_spread": ("score", "Mean standard deviation of a score over the members", (0, None)),
    "reward_mean": (
        "score",
        "Score minus penalties, minus KL penalty with kl_in = reward, per response. With truncated"
        " = bootstrap the score of a truncated response is not in it",
    ),
    "model_score_mean": ("score", "The reward model's part, before its weight; with functions"),
    **{
        f"function_{i}_mean": ("score", f"Reward function {i}, before its weight")
        for i in FUNCTIONS
    },
    "score_running_mean": ("score", "Mean of all scores so far, which centring subtracts"),
    "score_running_std": ("score", "Their standard deviation, by which scaling divides", (0, None)),
    "length_penalty_mean": ("score", "Length penalty per response", (0, None)),
    "overlong_penalty_mean": ("score", "Soft overlong penalty per response", (0, None)),
    "overlong_masked": (
        "responses",
        "Truncated responses that the losses leave out; with overlong = mask",
    ),
    "kl_per_response": (
        "nats",
        "Sum over response tokens of logpi_old - logpi_ref, mean over responses",
        (-1, None),
    ),
    "kl_per_token": (
        "nats/token",
        "logpi_old - logpi_ref, mean over response tokens",
        (-0.1, None),
    ),
    "kl_exact_per_response": (
        "nats",
        "KL over the vocabulary, summed over a response, mean over responses",
    ),
    "kl_exact_per_token": ("nats/token", "KL over the vocabulary, mean over response tokens"),
    "beta": ("score/nat", "KL coefficient"),
    "response_tokens": ("tokens", "Mean response length, EOS included"),
    "eos_share": ("share", "Responses that ended with end-of-text"),
    "onpolicy_accuracy": (
        "share",
        "Pairs of the policy's own fresh replies that the reward model ranks as labelled",
    ),
    "onpolicy_accuracy_start": ("share", "The same for the SFT model, before the first step"),
    "onpolicy_fall": ("share", "onpolicy_accuracy_start - onpolicy_accuracy", (-1, 1)),
    "onpolicy_pairs": ("pairs", "Labelled pairs behind it, without ties"),
    "onpolicy_margin": ("score", "Mean |score difference| of the two replies of a pair", (0, None)),
    "onpolicy_judge_prompt_tokens": ("tokens", "Prompt tokens of the judge in all checks so far"),
    "onpolicy_judge_completion_tokens": ("tokens", "Completion tokens of the judge, the same"),
    "onpolicy_judge_cost": ("price", "Cost of these tokens, in the currency of the judge's prices"),
    "eval_score": ("score", "Mean score of replies to the prompts that PPO leaves out"),
    "eval_independent": ("score", "The same by ppo.evaluation.scorer, which PPO does not raise"),
    "eval_kl_per_response": ("nats", "KL from the SFT model over these replies, mean", (-1, None)),
    "eval_response_tokens": ("tokens", "Mean length of these replies"),
    "kept_step": ("step", "Step whose policy the stage gives; with ppo.evaluation"),
    "policy_loss": ("score", "Surrogate loss (ppo.policy_loss), mean over the step's minibatches"),
    "value_loss": ("score^2", "Clipped value loss, mean over the step's minibatches"),
    "entropy": ("nats/token", "Policy entropy, mean over response tokens"),
    "policy_clip_fraction": ("share", "Response tokens whose ratio is out of the clip's range"),
    "value_clip_fraction": ("share", "Response tokens whose value was clipped"),
    "explained_variance": ("share", "1 - Var(returns - values) / Var(returns)", (None, 1)),
    "approx_kl_update": ("nats/token", "Mean of (r - 1) - log r between new and old policy (k3)"),
    "policy_updates": ("steps", "Optimizer steps of the actor; fewer if max_kl_update stopped it"),
    "ratio_max": ("ratio", "Largest new/old probability ratio of the step"),
    "ratio_min": ("ratio", "Smallest new/old probability ratio of the step"),
    "router_loss": BALANCE,
    "critic_router_loss": BALANCE,
    "policy_grad_norm": ("l2", "Actor gradient norm before clipping, mean over minibatches"),
    "critic_grad_norm": ("l2", "Critic gradient norm before clipping, mean over minibatches"),
    "policy_lr": ("1/step", "Actor learning rate"),
    "critic_lr": ("1/step", "Critic learning rate"),
    "sampler_logprob_diff": (
        "nats",
        "Mean |sampler - trainer| log-probability of response tokens; with old_logprobs 'sampler'"
        " those of the first minibatch",
    ),
    "sampler_logprob_diff_max": ("nats", "Largest such difference"),
    "sampler_kl": ("nats/token", "KL of the sampler from the trainer over response tokens (k3)"),
    "sampler_effective_share": (
        "share",
        "Effective sample size of trainer / sampler weights, over the tokens",
    ),
    "importance_mean": (
        "ratio",
        "Weight of a token's policy loss, mean over response tokens; with importance_cap",
    ),
    "importance_capped": ("share", "Response tokens whose weight is at importance_cap"),
    "sampling_rounds": ("rounds", "Rounds of dynamic sampling, the first included"),
    "groups": ("groups", "Groups learned from; fewer than asked for where max_rounds was reached"),
    "groups_dropped": ("groups", "Groups without a spread of reward, which dynamic sampling drops"),
    "tokens_dropped": ("tokens", "Response tokens of the dropped groups"),
    "score_mean_sampled": (
        "score",
        "Mean score of all responses of the step, those of dropped groups included",
    ),
    "rollout_age": ("steps", "Actor steps since the weights that generated the responses"),
    "seconds_rollout": ("s", "Generation by the sampler"),
    "seconds_waited": ("s", "Wait for a rollout that is generated ahead; of the first one, all"),
    "seconds_selection": ("s", "Rewards by which dynamic sampling decides"),
    "seconds_scoring": ("s", "Old, reference, value and reward forward passes"),
    "seconds_update": ("s", "Optimisation of actor and critic"),
    "seconds_sync": ("s", "New weights into the sampler"),
    "rollout_tokens_per_second": ("tokens/s", "Generated tokens per second of rollout"),
}

DPO_METRICS: MetricRows = {
    "loss": ("nats/pair", "DPO loss on the step's batch; with loss = ipo in squared nats"),
    "train_accuracy": ("share", "Pairs of the batch that the implicit reward ranks as labelled"),
    "margin": (
        "score",
        "Mean implicit reward, beta (logpi - logpi_sft), of chosen - rejected in the batch",
    ),
    "chosen_logratio": ("nats", "Mean logpi - logpi_sft of the step's chosen replies", ANY),
    "rejected_logratio": ("nats", "Mean logpi - logpi_sft of the step's rejected replies", ANY),
    "router_loss": BALANCE,
    "lr": ("1/step", "Learning rate"),
    "grad_norm": ("l2", "Global gradient norm before clipping"),
    "accuracy": (
        "share",
        "Held-out pairs that the implicit reward ranks as labelled; a tie counts as wrong",
    ),
    "accuracy_lower": ("share", "Lower end of its 95% Wilson interval"),
    "accuracy_upper": ("share", "Upper end of its 95% Wilson interval"),
    "accuracy_when_shorter": ("share", "Held-out accuracy where the chosen answer is shorter"),
    "length_baseline": ("share", "Accuracy of 'the longer answer wins' on the same held-out pairs"),
    "heldout_pairs": ("pairs", "Held-out comparisons measured"),
    "heldout_prompts": ("prompts", "Different prompts of the held-out comparisons"),
    "heldout_loss": ("nats/pair", "The same loss on held-out comparisons"),
    "heldout_margin": ("score", "Mean implicit reward of chosen - rejected on held-out pairs"),
    # chosen below 0: the policy moves away even from what is preferred
    "heldout_chosen_logratio": ("nats", "Mean logpi - logpi_sft of held-out chosen replies", ANY),
    "heldout_rejected_logratio": (
        "nats",
        "Mean logpi - logpi_sft of rejected held-out replies",
        ANY,
    ),
    "calibration_error": (
        "share",
        "Expected calibration error of sigmoid(margin), 10 equal-count bins",
    ),
}
