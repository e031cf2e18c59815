"""The quickstart: a generated language, its data files, its annotators and a base model."""
