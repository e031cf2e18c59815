"""The quickstart: a generated corpus with a known utility, and its base model."""
