"""Commands for models in production."""
