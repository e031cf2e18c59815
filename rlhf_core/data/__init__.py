"""Data: read, normalise, check, split."""
