"""The data of a run: read, normalise, check and split the user's rows."""
