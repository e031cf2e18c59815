"""Every metric of the reward model on later labels (data.new_comparisons)."""

from rlhf_core.metric_tables.stages import MetricRows

NEW_LABEL_METRICS: MetricRows = {
    "accuracy_new": ("share", "Pairwise accuracy on the held-out new comparisons; a tie is wrong"),
    "accuracy_new_lower": ("share", "Lower end of its 95% Wilson interval"),
    "accuracy_new_upper": ("share", "Upper end of its 95% Wilson interval"),
    "heldout_pairs_new": ("pairs", "Held-out new comparisons scored"),
}
