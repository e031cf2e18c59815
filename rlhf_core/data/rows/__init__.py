"""Rows on disk: those that a validation checks, their texts in batches, and those of a split."""
