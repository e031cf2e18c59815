"""Execution of one stage: process group, launcher, device limits, resource usage."""
