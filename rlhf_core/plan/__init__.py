"""The memory planner: bytes per stage by arithmetic alone; formulas in infra/docs."""
