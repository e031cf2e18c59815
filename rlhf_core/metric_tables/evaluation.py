"""The metrics of the stage evaluate and of its reward-hacking detectors, as in stages.py."""

from rlhf_core.metric_tables.stages import ANY, Domain, MetricRows

_RATERS = {
    "judge_people": "judge and people",
    "judge_reward": "judge and reward model",
    "reward_people": "reward model and people",
}
_ALPHA: Domain = (-1, 1)
# judge, reward model and people on the same held-out pairs
AGREEMENT_METRICS: MetricRows = {
    "agreement_pairs": ("pairs", "Labelled held-out pairs that the judge gave a verdict on"),
    "agreement_prompts": ("prompts", "Different prompts of these pairs"),
    "agreement_judge_ties": ("share", "Those of these pairs on which the judge prefers neither"),
}
for _name, _raters in _RATERS.items():
    _rows: MetricRows = {
        f"agreement_{_name}": ("share", f"Same preference of {_raters}, where both have one"),
        f"agreement_{_name}_lower": ("share", "Lower end of its 95% Wilson interval"),
        f"agreement_{_name}_upper": ("share", "Upper end of its 95% Wilson interval"),
        f"alpha_{_name}": ("alpha", "The same as Krippendorff's alpha; 0: as by guessing", _ALPHA),
        f"alpha_{_name}_lower": ("alpha", "Lower end of its 95% interval", _ALPHA),
        f"alpha_{_name}_upper": ("alpha", "Upper end of its 95% interval", _ALPHA),
    }
    AGREEMENT_METRICS |= _rows

EVAL_METRICS: MetricRows = {
    # without a reward model, the score is the independent scorer's
    "score_policy": ("score", "Mean reward-model score of the policy's held-out replies"),
    "score_sft": ("score", "The same for the SFT model, same prompts and seeds"),
    "score_gain": ("score", "Paired difference policy - SFT"),
    "score_gain_lower": ("score", "Lower end of its 95% interval (paired bootstrap)"),
    "score_gain_upper": ("score", "Upper end of its 95% interval (paired bootstrap)"),
    "win_rate": ("share", "Policy scores above SFT; a tie counts one half"),
    "win_rate_lower": ("share", "Lower end of its 95% Wilson interval"),
    "win_rate_upper": ("share", "Upper end of its 95% Wilson interval"),
    "win_rate_vs_champion": ("share", "Policy scores above the champion; a tie counts one half"),
    "win_rate_vs_champion_lower": ("share", "Lower end of its 95% Wilson interval"),
    "win_rate_vs_champion_upper": ("share", "Upper end of its 95% Wilson interval"),
    "win_rate_vs_champion_by_its_reward": ("share", "The same by the champion's reward model"),
    "win_rate_vs_champion_by_its_reward_lower": ("share", "Lower end of its 95% Wilson interval"),
    "win_rate_vs_champion_by_its_reward_upper": ("share", "Upper end of its 95% Wilson interval"),
    "kl_per_response": (
        "nats",
        "Sum of logpi - logpi_sft over the policy's own replies, mean",
        (-1, None),
    ),
    "length_policy": ("tokens", "Mean reply length of the policy"),
    "length_sft": ("tokens", "Mean reply length of the SFT model"),
    "length_ratio": ("ratio", "length_policy / length_sft"),
    "repetition_policy": ("share", "Repeated 3-grams / 3-grams, mean over replies"),
    "repetition_sft": ("share", "The same for the SFT model"),
    "repetition_increase": ("share", "repetition_policy - repetition_sft", (-1, 1)),
    "no_eos_policy": ("share", "Replies cut off at the length limit"),
    "no_eos_sft": ("share", "The same for the SFT model"),
    "heldout_loss_policy": ("nats/token", "Held-out SFT loss of the policy"),
    "heldout_loss_sft": ("nats/token", "Held-out SFT loss of the SFT model"),
    "alignment_tax": ("nats/token", "heldout_loss_policy - heldout_loss_sft", ANY),
    "prompts": ("prompts", "Held-out prompts answered"),
    "different_prompts": ("prompts", "Those of them with different texts"),
    "independent_policy": ("score", "Mean of the independent scorer over the policy's replies"),
    "independent_sft": ("score", "The same for the SFT model"),
    "independent_gain": ("score", "Paired difference policy - SFT of the independent scorer"),
    "independent_gain_lower": ("score", "Lower end of its 95% interval (paired bootstrap)"),
    "independent_gain_upper": ("score", "Upper end of its 95% interval (paired bootstrap)"),
    "independent_win_rate_vs_champion": ("share", "Scorer puts the policy above the champion"),
    "independent_win_rate_vs_champion_lower": ("share", "Lower end of its 95% Wilson interval"),
    "independent_win_rate_vs_champion_upper": ("share", "Upper end of its 95% Wilson interval"),
    # best-of-n
    "score_best_of_n": ("score", "Mean score of the best of n SFT replies, picked by that score"),
    "independent_best_of_n": ("score", "Mean of the independent scorer over the same replies"),
    "length_best_of_n": ("tokens", "Mean length of the same replies"),
    "kl_bound_best_of_n": ("nats", "log n - (n - 1) / n, upper bound of KL(best-of-n || SFT)"),
    "win_rate_vs_best_of_n": ("share", "Policy scores above the best of n; a tie counts one half"),
    "win_rate_vs_best_of_n_lower": ("share", "Lower end of its 95% Wilson interval"),
    "win_rate_vs_best_of_n_upper": ("share", "Upper end of its 95% Wilson interval"),
    # judge
    "judge_win_rate": (
        "share",
        "Judge prefers the policy to the SFT model in both orders; a tie counts one half",
    ),
    "judge_win_rate_lower": ("share", "Lower end of its 95% Wilson interval"),
    "judge_win_rate_upper": ("share", "Upper end of its 95% Wilson interval"),
    "judge_ties": ("share", "Ties among the judged pairs, contradictions between orders included"),
    "judge_position_bias": ("share", "Judged pairs whose winner changed with the order"),
    "judge_first_position": (
        "share",
        "Answers of the judge for the reply shown first; a tie counts one half, 0.5 is no bias",
    ),
    "judge_first_position_lower": ("share", "Lower end of its 95% interval (MOVER)"),
    "judge_first_position_upper": ("share", "Upper end of its 95% interval (MOVER)"),
    "judge_inconsistent": ("share", "Judged pairs whose two orders have different answers"),
    "judge_inconsistent_lower": ("share", "Lower end of its 95% Wilson interval"),
    "judge_inconsistent_upper": ("share", "Upper end of its 95% Wilson interval"),
    "judge_unreadable": ("share", "Pairs left out because an answer was none of A, B, TIE"),
    "judge_win_rate_vs_champion": ("share", "Judge prefers the policy to the present champion"),
    "judge_win_rate_vs_champion_lower": ("share", "Lower end of its 95% Wilson interval"),
    "judge_win_rate_vs_champion_upper": ("share", "Upper end of its 95% Wilson interval"),
    "judge_ties_vs_champion": ("share", "Ties among the pairs judged against the champion"),
    "judge_position_bias_vs_champion": ("share", "Those whose winner changed with the order"),
    "judge_first_position_vs_champion": ("share", "Answers for the reply shown first, there"),
    "judge_first_position_vs_champion_lower": ("share", "Lower end of its 95% interval (MOVER)"),
    "judge_first_position_vs_champion_upper": ("share", "Upper end of its 95% interval (MOVER)"),
    "judge_inconsistent_vs_champion": ("share", "Those whose two orders have different answers"),
    "judge_inconsistent_vs_champion_lower": ("share", "Lower end of its 95% Wilson interval"),
    "judge_inconsistent_vs_champion_upper": ("share", "Upper end of its 95% Wilson interval"),
    "judge_unreadable_vs_champion": ("share", "Those left out because an answer was unreadable"),
    "judge_prompt_tokens": ("tokens", "Prompt tokens that the judge's endpoint counted"),
    "judge_completion_tokens": ("tokens", "Completion tokens that it counted"),
    "judge_cost": ("price", "Cost of these tokens, in the currency of evaluate.judge's prices"),
}
EVAL_METRICS |= AGREEMENT_METRICS

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
