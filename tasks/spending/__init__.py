"""Limits and forecasts of a run's time, machine hours and money."""
