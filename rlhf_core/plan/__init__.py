"""How much memory the four models need, by arithmetic alone; the formulas and their sources are in
infra/docs/results/memory.md.
"""
