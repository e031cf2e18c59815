"""The `rlhf` command, as a process and in this process."""

import sys

RLHF = [sys.executable, "-c", "import sys; from flows.cli.app import main; sys.exit(main())"]


def rlhf_exit_code(*words: object) -> int:
    """Run the command line in this process and return its exit code."""
    from flows.cli.app import main

    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return end.code or 0
