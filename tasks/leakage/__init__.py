"""The search for held-out prompts among the training prompts of the models that take part."""
