"""One read-only page for the team: what runs, what waits for whom, champions, the latest runs."""
