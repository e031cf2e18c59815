"""The interpreter of the stages, as other processes ask it."""
