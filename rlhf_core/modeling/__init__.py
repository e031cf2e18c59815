"""Models: loading, scalar heads, shared trunks, LoRA, reward-model ensembles."""
