"""Cleanup: what may be removed, and what still refers to it."""
