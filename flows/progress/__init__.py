"""What a run says while it goes on: in a terminal, as plain lines, in Prefect's log."""
