"""Gates: read a metric with its interval, decide, show the items that speak against it."""
