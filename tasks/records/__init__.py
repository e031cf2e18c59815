"""What a run writes down in its workspace: records, events, approvals, provenance."""
