"""Files are UTF-8 whatever the locale: no open of a text file leaves its encoding to it."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import RLHF

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("flows", "tasks", "rlhf_core", "infra", "mlflow")
# objects whose `open` is not that of a text file
OTHER_OPENS = ("os", "opener", "webbrowser", "gzip", "bz2", "lzma", "zipfile", "tarfile")
TEXT = "用户🙂"
PROGRAM = """
import json, locale, sys
from pathlib import Path
from rlhf_core.rundir import RunDir, read_metrics, write_atomically
folder, text = Path(sys.argv[1]), json.loads(sys.argv[2])
write_atomically(folder / "file", text)
RunDir(folder / "run").log(1, 1, {"sft/loss": 1.0})
assert read_metrics(folder / "run" / "metrics.jsonl")
print(locale.getpreferredencoding(False))
"""


def mode_of(call: ast.Call, place: int) -> str | None:
    """Return the mode of an open, '' for the default, None where it is not written there."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    given += call.args[place : place + 1]
    if not given:
        return ""
    return str(given[0].value) if isinstance(given[0], ast.Constant) else None


def leaves_encoding_open(call: ast.Call) -> bool:
    """Return True for a call that reads or writes text in the encoding of the locale."""
    keywords = {keyword.arg for keyword in call.keywords}
    if keywords & {"encoding", None}:
        return False
    if keywords & {"text", "universal_newlines"}:  # of subprocess
        return True
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name in ("NamedTemporaryFile", "TemporaryFile", "fdopen"):
        return "b" not in (mode_of(call, 1 if name == "fdopen" else 0) or "b")
    if name != "open" or ast.unparse(call.func).split(".")[0] in OTHER_OPENS:
        return False
    return "b" not in (mode_of(call, 1 if isinstance(call.func, ast.Name) else 0) or "")


def test_no_text_file_is_opened_in_the_encoding_of_the_locale():
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and leaves_encoding_open(node)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("path.read_text()", True),
        ("path.read_text(errors='replace')", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.write_text(text)", True),
        ("path.open()", True),
        ("path.open('a')", True),
        ("path.open('rb')", False),
        ("open(name, 'w')", True),
        ("open(name, mode='wb')", False),
        ("os.open(name, flags)", False),
        ("subprocess.run(words, text=True)", True),
        ("subprocess.run(words, encoding='utf-8')", False),
    ],
)
def test_the_search_tells_text_from_bytes(code, expected):
    assert leaves_encoding_open(ast.parse(code, mode="eval").body) is expected


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory) -> dict[str, str]:
    """Make a locale that is not UTF-8; the environment of a process in it."""
    if not shutil.which("localedef"):
        pytest.skip("no localedef here to make a locale with")
    folder = tmp_path_factory.mktemp("locales")
    words = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("localedef has no sources of locales here")
    ours = {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1", "PYTHONPATH": str(ROOT)}
    return {name: v for name, v in os.environ.items() if name != "PYTHONUTF8"} | ours


def test_a_command_prints_any_text_in_a_locale_that_is_not_utf_8(latin_1, tmp_path):
    words = [*RLHF, "gates", TEXT]
    environment = latin_1 | {"RLHF_HOME": str(tmp_path)}
    done = subprocess.run(words, env=environment, capture_output=True, cwd=tmp_path)
    assert done.returncode == 2 and b"Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith(b"rlhf: error: ")


def test_a_run_directory_takes_any_text_in_a_locale_that_is_not_utf_8(latin_1, tmp_path):
    words = [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(TEXT)]
    done = subprocess.run(words, env=latin_1, capture_output=True, text=True)
    assert done.returncode == 0 and "8859-1" in done.stdout, done.stderr
    assert (tmp_path / "file").read_text(encoding="utf-8") == TEXT
