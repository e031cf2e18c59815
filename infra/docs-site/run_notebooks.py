"""Run the notebooks of the documentation, and keep what they show.

    .venv/stage/bin/python infra/docs-site/run_notebooks.py [--folder FOLDER]

They run one after the other in FOLDER (default: a temporary one), where `.rlhf` is their workspace:
stages that it has are not repeated. Then each is written back with its outputs, without the paths
of this machine. A cell that fails ends the command, and nothing is written. About ten minutes on
two cores.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from docs_environment import prepare, python
from site_source import ROOT

NOTEBOOKS = tuple(
    ROOT / "infra" / "docs" / "start" / name
    for name in ("first_run.ipynb", "from_labels_to_promotion.ipynb")
)
PROGRESS = re.compile(  # stages that have begun, a library's word about widgets, empty lines
    r".*: (?:started, log|step \d+/\d+,) .*\n|.*TqdmWarning.*\n.*\n|^\s*\n|.*\r", re.MULTILINE
)
PRINTED = '<pre style="white-space:pre'  # how rich prints lines into a notebook


def run(notebook: Path, folder: Path) -> dict:
    """Run a notebook in a folder, and return it with its outputs. Raises CalledProcessError."""
    copy = folder / notebook.name
    shutil.copyfile(notebook, copy)
    patience = ("--ExecutePreprocessor.timeout=-1", "--ExecutePreprocessor.startup_timeout=600")
    words = ("--to", "notebook", "--execute", "--inplace", *patience)
    kept = {key: value for key, value in os.environ.items() if key != "RLHF_HOME"}
    subprocess.run(python("-m", "nbconvert", *words, str(copy)), cwd=folder, env=kept, check=True)
    return tidied(json.loads(copy.read_text(encoding="utf-8")), folder)


def tidied(notebook: dict, folder: Path) -> dict:
    """Return a notebook without times, paths of this machine and progress of stages."""
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        outputs = _joined([_tidied_output(one, folder) for one in cell.get("outputs", [])])
        if cell["cell_type"] == "code":
            cell["outputs"] = [one for one in outputs if one.get("text") != []]
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _tidied_output(output: dict, folder: Path) -> dict:
    text = json.dumps(output, ensure_ascii=False)
    for path in (folder.resolve(), folder, ROOT):
        text = text.replace(f"{path}/", "").replace(str(path), ".")
    found = json.loads(text)
    if "".join(found.get("data", {}).get("text/html", "")).startswith(PRINTED):
        found = {"output_type": "stream", "name": "stderr", "text": found["data"]["text/plain"]}
    if found["output_type"] == "stream":
        lines = PROGRESS.sub("", "".join(found["text"])).splitlines(keepends=True)
        found["text"] = lines
    return found


def _joined(outputs: list[dict]) -> list[dict]:
    """Return the outputs with what one stream has said in one piece."""
    found: list[dict] = []
    for one in outputs:
        if found and "text" in one and one.get("name") == found[-1].get("name"):
            found[-1]["text"] += one["text"]
        else:
            found.append(one)
    return found


def write(notebook: dict, file: Path) -> None:
    """Write a notebook as Jupyter does, by rename."""
    new = file.with_suffix(".new")
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    new.write_text(f"{text}\n", encoding="utf-8")
    new.replace(file)


def main() -> None:
    """Run all notebooks, then write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args().folder
    prepare()
    with tempfile.TemporaryDirectory() as made:
        folder = (given or Path(made)).resolve()
        done = {file: run(file, folder) for file in NOTEBOOKS}
    for file, notebook in done.items():
        write(notebook, file)


if __name__ == "__main__":
    main()
