"""Every metric of labelled replies: those of a score on them, and those of KTO."""

from rlhf_core.metric_tables.stages import ANY, BALANCE, MetricRows

# of a score on held-out replies with thumbs up or down
LABEL_METRICS: MetricRows = {
    "auc": (
        "share",
        "Probability that a held-out thumbs-up reply outranks a thumbs-down one; a tie is half",
    ),
    "auc_lower": ("share", "Lower end of its 95% interval (Newcombe)"),
    "auc_upper": ("share", "Upper end of its 95% interval (Newcombe)"),
    "auc_by_length": ("share", "The same probability for 'the longer reply is the better one'"),
    "auc_over_length": ("share", "auc - auc_by_length", (-1, 1)),
    "auc_over_length_lower": ("share", "Lower end of its 95% interval (DeLong)", (-1, 1)),
    "auc_over_length_upper": ("share", "Upper end of its 95% interval (DeLong)", (-1, 1)),
    "label_calibration_error": (
        "share",
        "Expected calibration error of the stated probability of thumbs up, 10 equal-count bins",
    ),
    "heldout_rows": ("replies", "Held-out replies with a label that were measured"),
    "heldout_rarer": ("replies", "Those of them with the rarer label"),
    "label_prompts": ("prompts", "Different prompts of these replies"),
}

# of the reward stage alone, at its steps
LABEL_STEP_METRICS: MetricRows = {
    "label_loss": ("nats/reply", "Binary cross-entropy of the step's labels, with their weights"),
    "train_auc": (
        "share",
        "Probability that a thumbs-up reply of the step's batch outranks a thumbs-down one",
    ),
}

KTO_METRICS: MetricRows = {
    "loss": ("score", "KTO loss on the step's batch: mean of weight * (1 - value)", (0, None)),
    "reference_kl": (
        "nats",
        "z0, the KL that replies are compared with: prompts of the step with other replies, from 0",
    ),
    "train_auc": (
        "share",
        "Probability that a thumbs-up reply of the step's batch outranks a thumbs-down one",
    ),
    "margin": (
        "score",
        "Mean implicit reward, beta (logpi - logpi_sft), of thumbs up - thumbs down in the batch",
    ),
    "up_logratio": ("nats", "Mean logpi - logpi_sft of the step's thumbs-up replies", ANY),
    "down_logratio": ("nats", "Mean logpi - logpi_sft of the step's thumbs-down replies", ANY),
    "router_loss": BALANCE,
    "lr": ("1/step", "Learning rate"),
    "grad_norm": ("l2", "Global gradient norm before clipping"),
    **LABEL_METRICS,
    "heldout_loss": ("score", "The same loss on held-out replies", (0, None)),
    "heldout_reference_kl": ("nats", "z0 over held-out prompts with other replies, from 0"),
    # up below 0: the policy moves away even from what is liked
    "heldout_up_logratio": ("nats", "Mean logpi - logpi_sft of held-out thumbs-up replies", ANY),
    "heldout_down_logratio": (
        "nats",
        "Mean logpi - logpi_sft of held-out thumbs-down replies",
        ANY,
    ),
    "accuracy": (
        "share",
        "Held-out comparisons that the implicit reward ranks as labelled, where there are any",
    ),
    "accuracy_lower": ("share", "Lower end of its 95% Wilson interval"),
    "accuracy_upper": ("share", "Upper end of its 95% Wilson interval"),
    "heldout_pairs": ("pairs", "Held-out comparisons measured"),
}
