"""Tracking in MLflow: the client, forwarding of records, texts and figures of its pages."""
