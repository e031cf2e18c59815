"""What a run takes of time, machine and money: its limits, and forecasts."""
