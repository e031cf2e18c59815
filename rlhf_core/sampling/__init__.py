"""Samplers: vLLM in process, vLLM as a server, transformers."""
