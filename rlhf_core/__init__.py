"""The learning: validation, SFT, reward model, PPO and evaluation, with neither Prefect nor MLflow."""
