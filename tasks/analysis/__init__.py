"""Analysis of finished runs: comparison, significance, lineage, gate and reward reports."""
