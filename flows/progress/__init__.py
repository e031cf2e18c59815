"""Lines about a run that goes on: in a terminal, as plain text, in Prefect's log."""
