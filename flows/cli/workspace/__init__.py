"""Commands about the workspace, its servers and this machine."""
