"""The film recipe's reward functions and its independent scorer."""
