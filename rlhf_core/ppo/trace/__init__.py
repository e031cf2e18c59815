"""The trace of one PPO batch: every tensor, forward pass and token."""
