"""Proximal policy optimization: rollout, experience, update, and the loop."""
