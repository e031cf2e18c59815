"""The training engine: DeepSpeed, checkpoints, the loop that supervised stages share."""
