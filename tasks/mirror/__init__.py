"""Copies of run directories in an object store, from which another machine goes on."""
