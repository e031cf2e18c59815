"""Benchmarks: tasks of lm-eval, answered by the pipeline's own models and samplers."""
