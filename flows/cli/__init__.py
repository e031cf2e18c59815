"""The command line: one file per command, in packages that are the panels of `rlhf --help`."""
