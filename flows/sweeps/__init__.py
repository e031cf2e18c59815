"""Sweeps: the grid of recipes and their runs."""
