"""The reward model: labels, training, measurement on held-out pairs, accuracy by slice."""
