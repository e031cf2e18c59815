"""Models in production: how requests are shared among versions, and how vLLM serves one."""
