"""What people read of runs: a comparison in the terminal, and self-contained HTML pages that work
offline, light and dark.
"""
