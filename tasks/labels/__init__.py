"""Labelling campaigns: pairs to people and their votes back, by MLflow's review queues or files."""
