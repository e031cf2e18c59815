"""Inputs of stages in an object store."""
