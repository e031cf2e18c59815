"""Judges and scorers from outside the reward model: functions, endpoints, labels of fresh pairs."""
