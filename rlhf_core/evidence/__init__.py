"""Evidence: per-item results, the metrics computed from them, figures."""
