"""Sweeps: records, figures and MLflow runs of a recipe over several values."""
