"""The display of runs in the terminal."""
