"""Every metric of the reward model on later labels (data.new_comparisons)."""

from rlhf_core.metric_tables.stages import ANY, MetricRows

NEW_LABEL_METRICS: MetricRows = {
    "accuracy_new": ("share", "Pairwise accuracy on the held-out new comparisons; a tie is wrong"),
    "accuracy_new_lower": ("share", "Lower end of its 95% Wilson interval"),
    "accuracy_new_upper": ("share", "Upper end of its 95% Wilson interval"),
    "heldout_pairs_new": ("pairs", "Held-out new comparisons scored"),
    "accuracy_new_before": (
        "share",
        "The same accuracy of the reward model that the labels' policy was trained with",
    ),
    "accuracy_new_before_lower": ("share", "Lower end of its 95% Wilson interval"),
    "accuracy_new_before_upper": ("share", "Upper end of its 95% Wilson interval"),
    "heldout_pairs_new_before": (
        "pairs",
        "Held-out new comparisons whose prompts the reward model before was not trained on",
    ),
    "accuracy_new_gain": (
        "share",
        "Accuracy of this reward model less that of the one before, on the same new pairs",
        (-1, 1),
    ),
    "accuracy_new_gain_lower": ("share", "Lower end of its 95% interval", (-1, 1)),
    "accuracy_new_gain_upper": ("share", "Upper end of its 95% interval", (-1, 1)),
    "score_shift_new": (
        "std",
        "Mean score of new held-out replies less that of old ones, by the reward model before, in"
        " standard deviations of the old ones",
        ANY,
    ),
    "score_shift_new_lower": ("std", "Lower end of its 95% interval", ANY),
    "score_shift_new_upper": ("std", "Upper end of its 95% interval", ANY),
    "score_distance_new": (
        "std",
        "Wasserstein-1 distance between the scores of new and old replies, in the same unit",
        (0, None),
    ),
    "spread_ratio_new": (
        "ratio",
        "Standard deviation of the scores of new replies / that of old ones",
    ),
}
