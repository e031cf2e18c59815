"""Rounds of labelling and training: the state of a loop, its labels, and its run in MLflow."""
