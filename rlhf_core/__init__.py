"""The learning, from validation to evaluation; it needs neither Prefect nor MLflow."""
