"""The rows that a validation checks: on disk, their texts in batches, and those of a split."""
