"""The records of a run in its workspace: state, events, approvals, provenance."""
