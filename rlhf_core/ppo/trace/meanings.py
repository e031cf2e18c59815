"""The meaning of each tensor of a PPO batch, by its name, for the trace to show."""

AXES = {
    "B": "rows: responses of the rollout, or of one microbatch",
    "P": "prompt tokens, left-padded",
    "R": "response tokens, right-padded",
    "R1": "R + 1 places: after the prompt, and after each response token",
    "L": "P + R",
    "V": "vocabulary",
    "F": "reward functions, in the recipe's order",
    "T": "tokens in one forward pass of the sampler, all rows one after the other",
    "D": "hidden width",
}

TENSORS = {
    # rollout: lists, not yet padded
    "prompt_ids": "token ids of the prompts, as rendered by the chat template; one list per row",
    "response_ids": "token ids that the sampler drew, end-of-text included where it came",
    "sampler_logprobs": "log-probability of each drawn token, as the sampler computed it, nats",
    "ended": "true when the response ended by itself, not at the length limit",
    "hidden_TD": (
        "the sampler's last hidden states: all prompt tokens at first (padded by transformers),"
        " then one token per row"
    ),
    # the padded batch
    "ids_BL": (
        "prompts and responses side by side, so that every response begins in the same column"
    ),
    "mask_BL": "True at real tokens",
    "response_mask_BR": (
        "True at real response tokens, end-of-text included: what every loss and mean runs over"
    ),
    # what the models give
    "logits_BRV": "scores over the vocabulary; column t predicts response token t",
    "logprobs_BR": "log-probability of each response token, of logits that are not kept, nats",
    "scores_BR1": "the scalar head at every place; column t is the head after t response tokens",
    "values_BR1": (
        "the value head on the actor's trunk at every place, from the same forward pass as the"
        " logits"
    ),
    # experience
    "ended_B": (
        "true when the response ended by itself; one that did not loses missing_eos_penalty from"
        " its score"
    ),
    "model_score_B": (
        "the reward model at the last response token, the mean over an ensemble; 0 with process"
        " rewards"
    ),
    "spread_B": "standard deviation of the score over the reward models of an ensemble",
    "function_scores_BF": (
        "each reward function's score of a response, before its weight; process rewards summed"
    ),
    "score_B": (
        "weighted sum of reward model and functions, process rewards included, before shaping"
    ),
    "final_B": (
        "paid at the last token: the score centred, scaled and clipped where so configured, less"
        " the penalties"
    ),
    "cut_B": "true when max_new_tokens cut the response: it did not end by itself",
    "learned_B": (
        "true when the response counts in the losses: always, unless it was cut and overlong is"
        " 'mask'"
    ),
    "process_BR": (
        "reward of each token by itself, scaled and clipped where so configured; 0 without process"
        " rewards"
    ),
    "sampler_logprobs_BR": "log-probability of each token by the sampler, nats",
    "old_logprobs_BR": (
        "log-probability of each token by the actor before this update, nats; with old_logprobs"
        " 'sampler' by the sampler"
    ),
    "ref_logprobs_BR": "log-probability of each token by the frozen reference, nats",
    "exact_kl_BR": (
        "KL of the actor from the reference at each place, summed over the vocabulary, nats"
    ),
    "entropy_BR": "entropy of the actor's distribution at each place, nats",
    "values_BR": (
        "the critic's forecast of the return, made before each token is emitted; 0 without a critic"
    ),
    "end_values_B": "the critic's forecast after the last token; 0 without a critic",
    "kl_BR": "old - reference log-probability at each token (k1 estimate of the KL), nats",
    "rewards_BR": (
        "-beta * KL at each token (none when the KL stands in the loss) + process reward, final_B"
        " added at the last"
    ),
    "reward_B": "sum of a response's token rewards",
    "advantages_BR": (
        "how much better than expected each token turned out; GAE is whitened when so configured"
    ),
    "returns_BR": "what the critic is to learn: advantage before whitening + value",
    "importance_BR": (
        "weight of each token's policy loss: trainer / sampler probability, capped; 1 when off"
    ),
    # update
    "ratio_BR": (
        "probability of each token by the new actor / by the old one; the surrogate clips it"
    ),
    "new_logprobs_BR": "log-probability of each token by the actor after the update, nats",
    "actor weights": "all parameters of the actor, copied into the sampler in place",
}

QUANTITIES = {  # beside each token, in this order: title, meaning, unit
    "logprob": ("log-prob", "log-probability by the actor before the update", "nats"),
    "ref_logprob": ("reference log-prob", "log-probability by the frozen reference", "nats"),
    "kl": ("KL", "log-prob - reference log-prob (k1 estimate)", "nats"),
    "exact_kl": ("exact KL", "KL from the reference over the vocabulary, at this place", "nats"),
    "process": ("process reward", "the token's own reward, as shaped", "score"),
    "reward": (
        "reward",
        "-beta * KL and process reward, and the shaped score at the last token",
        "score",
    ),
    "value": ("value", "the critic's forecast before the token", "score"),
    "advantage": (
        "advantage",
        "what the policy loss weighs the token with",
        "score, or standard deviations when whitened",
    ),
    "return": (
        "return",
        "what the critic is to learn: advantage before whitening + value",
        "score",
    ),
    "importance": (
        "importance",
        "weight of its policy loss: trainer / sampler probability, capped",
        "1 = the same",
    ),
    "ratio": ("ratio", "probability after the update / before it", "1 = unchanged"),
}

STEPS = {  # title, where it is in the source
    "rollout": ("the sampler answers the prompts", "rlhf_core/ppo/rollout.py: roll_out"),
    "experience": (
        "the models score every sequence once",
        "rlhf_core/ppo/experience.py: make_experience",
    ),
    "ratio before": (
        "the trace's own check: the actor has not moved yet",
        "rlhf_core/ppo/trace/stage.py: actor_logprobs",
    ),
    "update": (
        "actor and critic learn in epochs of minibatches",
        "rlhf_core/ppo/update.py: update",
    ),
    "ratio after": (
        "the trace's own look: how far the actor moved",
        "rlhf_core/ppo/trace/stage.py: actor_logprobs",
    ),
    "sync": (
        "the new weights go into the sampler in place",
        "rlhf_core/sampling/factory.py: open_sampler(...).sync",
    ),
}
