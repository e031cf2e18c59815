"""Statistics in plain numbers: intervals, tests, summaries."""
