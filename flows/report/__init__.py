"""Reports of runs: terminal tables, and self-contained HTML pages that work offline."""
