"""The memory planner: bytes of each stage on a device, by arithmetic alone."""
