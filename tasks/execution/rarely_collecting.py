"""`python -m tasks.execution.rarely_collecting MODULE ARGUMENTS...`: run a program of libraries.

It starts faster than `python -m MODULE`, since garbage is collected rarely.
"""

import runpy
import sys

from rlhf_core.interpreter.rare_collection import collect_rarely

if __name__ == "__main__":
    collect_rarely()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
