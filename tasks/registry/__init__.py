"""The model registry: versions and their packaging, bytes in and bytes out."""
