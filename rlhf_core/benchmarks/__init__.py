"""Benchmarks: what their metrics, items and task files are called."""
