"""The servers of a model in production, and the process that watches them."""
