"""`rlhf iterate`: rounds of labels and training, each against the champion of the one before."""
