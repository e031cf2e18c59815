"""Evaluation: the models' replies to held-out prompts, scores, detectors of reward hacking."""
