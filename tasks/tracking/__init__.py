"""MLflow tracking: the client, forwarding of records, rendering of what its pages show."""
