"""The metrics of the reward-hacking detectors, rows of the stage evaluate as in metric_table.py."""

from rlhf_core.metric_table import ANY, MetricRows

DETECTOR_METRICS: MetricRows = {
    "reward_up_independent_down": (
        "share",
        "Prompts on which the score rose and the independent scorer's fell",
    ),
    "length_correlation": (
        "correlation",
        "Pearson's r of score and tokens of the policy's replies",
        (-1, 1),
    ),
    "length_correlation_rank": ("correlation", "Spearman's rank correlation of the same", (-1, 1)),
    "length_correlation_sft": (
        "correlation",
        "Pearson's r of score and tokens of the SFT replies",
        (-1, 1),
    ),
    "distinct_2": ("share", "Distinct word 2-grams / 2-grams, over all of the policy's replies"),
    "distinct_2_sft": ("share", "The same for the SFT model"),
    "distinct_2_ratio": ("ratio", "distinct_2 / distinct_2_sft; absent if SFT has no 2-gram"),
    "distinct_3": ("share", "Distinct word 3-grams / 3-grams, over all of the policy's replies"),
    "distinct_3_sft": ("share", "The same for the SFT model"),
    "distinct_3_ratio": ("ratio", "distinct_3 / distinct_3_sft; absent if SFT has no 3-gram"),
    "distinct_2_cut": (
        "share",
        "distinct_2 with the two replies to a prompt cut to the words of the shorter one",
    ),
    "distinct_2_cut_sft": ("share", "The same for the SFT model"),
    "distinct_2_cut_ratio": ("ratio", "distinct_2_cut / distinct_2_cut_sft; absent if SFT is 0"),
    "distinct_3_cut": ("share", "distinct_3 of replies cut in the same way"),
    "distinct_3_cut_sft": ("share", "The same for the SFT model"),
    "distinct_3_cut_ratio": ("ratio", "distinct_3_cut / distinct_3_cut_sft; absent if SFT is 0"),
    "opening_share": ("share", "Policy's replies that begin with its most frequent three words"),
    "opening_share_sft": ("share", "The same for the SFT model and its most frequent three words"),
    "first_word_share": ("share", "Policy's replies that begin with its most frequent first word"),
    "first_word_share_sft": ("share", "The same for the SFT model and its most frequent one"),
    "first_word_rise": ("share", "first_word_share - first_word_share_sft", (-1, 1)),
    "prompt_retrieval": (
        "share",
        "Other prompts less similar to the policy's reply than its own, mean over prompts; 0.5 is"
        " chance",
    ),
    "prompt_retrieval_sft": ("share", "The same for the SFT model's replies"),
    "prompt_retrieval_loss": (
        "share",
        "Share of the SFT model's retrieval above 0.5 that the policy has lost; absent if 0.5 is in"
        " its interval",
        ANY,
    ),
    "prompt_retrieval_loss_lower": (
        "share",
        "Lower end of its 95% interval (paired bootstrap); 0 where the loss is absent",
        ANY,
    ),
    "prompt_retrieval_loss_upper": ("share", "Upper end; 1 where the loss is absent", ANY),
    "kl_per_reward": (
        "nats/score",
        "Mean KL / mean score gain; absent when the score did not rise",
        ANY,
    ),
    "reward_disagreement": ("sft std", "Mean spread of standardized scores over models", (0, None)),
    "reward_disagreement_sft": ("sft std", "The same for the SFT model's replies", (0, None)),
}
