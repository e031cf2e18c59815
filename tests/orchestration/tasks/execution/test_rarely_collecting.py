"""Programs of libraries, started with few collections of garbage."""

import json
import subprocess
import sys

from rlhf_core.interpreter.rare_collection import RARE


def test_a_program_is_run_with_its_arguments_and_few_collections(tmp_path):
    (tmp_path / "program.py").write_text(
        "import gc, json, sys\nprint(json.dumps([__name__, sys.argv[1:], gc.get_threshold()]))"
    )
    words = [sys.executable, "-m", "tasks.execution.rarely_collecting", "program", "--port", "1"]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, check=True).stdout
    assert json.loads(said) == ["__main__", ["--port", "1"], list(RARE)]
