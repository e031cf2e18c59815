"""The learning, from validation to evaluation; it needs neither Prefect nor MLflow."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the project
