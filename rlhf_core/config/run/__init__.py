"""The sections of a recipe that are about the run as a whole."""
