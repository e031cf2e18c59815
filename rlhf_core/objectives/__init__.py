"""Objectives: losses, advantages, KL estimators, importance weights. Tensors and floats only."""
