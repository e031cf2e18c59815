"""The task folders of the benchmarks that a recipe names: its own, this project's, lm-eval's."""

import difflib
import re
from functools import cache
from pathlib import Path

from rlhf_core import ROOT
from rlhf_core.benchmarks.names import benchmark_name, input_name, is_task_file
from rlhf_core.config.evaluate import Benchmarks
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from tasks.execution.stage_calls import ask
from tasks.stages.spec import Artifacts, is_there, permitted, readable

KEY = "evaluate.benchmarks.tasks"
LIBRARY = "lm_eval"
SHIPPED = ROOT / "rlhf_core" / "evaluation" / "benchmarks" / "tasks"
# every file of a folder but those that Python has compiled, whose names end in c
FILES = Path("**", "*[!c]")
_NAMED = re.compile(r"^(?:task|group|tag):[ \t]*['\"]?([\w.-]+)['\"]?[ \t]*$", re.MULTILINE)


def folders(config: Benchmarks) -> Artifacts:
    """Return the files of each benchmark's task, as inputs named 'benchmark_<name>'.

    Raises BadInput when lm-eval is not installed, and for a benchmark that is not there.
    """
    if not config.tasks:
        return {}
    if _library() is None:
        raise BadInput(
            f"{KEY} is {config.tasks}, and lm-eval, which runs benchmarks, is not installed;"
            " expected the package lm_eval. Install it with `make setup`, or with `pip install"
            " 'rlhf-pipeline[bench]'`, or leave the benchmarks out: --set"
            " 'evaluate.benchmarks.tasks=[]' --set 'evaluate.gate.benchmarks={}'."
        )
    return {
        input_name(benchmark_name(task)): Artifact.of(_folder(task) / FILES)
        for task in config.tasks
    }


def without_places(config: Benchmarks) -> Benchmarks:
    """Return the section with the benchmarks' names in place of their files' paths."""
    return config.model_copy(update={"tasks": config.names})


def _folder(task: str) -> Path:
    if is_task_file(task):
        return _folder_of_file(task)
    if (SHIPPED / task).is_dir():
        return SHIPPED / task
    known = _known_to_library()
    if task in known:
        return known[task]
    names = [*(path.name for path in SHIPPED.iterdir()), *known]
    close = difflib.get_close_matches(task, names, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "lm-eval ls tasks lists its own."
    raise BadInput(
        f"{KEY} has {task!r}, which neither this project nor lm-eval knows; expected the name of a"
        f" task or a group, or the path of a task file (NAME.yaml); {hint}"
    )


def _folder_of_file(task: str) -> Path:
    path = Path(task).expanduser()
    if not is_there(KEY, path) or not path.is_file():
        raise BadInput(
            f"{KEY} has {task!r}: no such file in {Path.cwd()}; expected a task file of lm-eval."
            " Correct the path."
        )
    readable(KEY, permitted(KEY, path))
    text = _task_text(path)
    names = re.findall(r"^task:[ \t]*['\"]?([^'\"\n#]*?)['\"]?[ \t]*(?:#.*)?$", text, re.MULTILINE)
    if names != [path.stem]:
        found = f"names the task {names[0]!r}" if names else "names no task"
        raise BadInput(
            f"{KEY} has {task!r}, which {found}; expected `task: {path.stem}`, as the file is"
            " called, because metrics and gates have that name. Rename one of them."
        )
    return readable(KEY, permitted(KEY, path.resolve().parent))


def _task_text(path: Path) -> str:
    """Return the text of a task file. Raises BadInput with the line of what is no UTF-8 or YAML."""
    import yaml  # lm-eval's own, which is installed with it

    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{KEY} has {str(path)!r}, whose line {line} is not UTF-8 (byte"
            f" 0x{data[error.start]:02x}); expected UTF-8 text. Convert the file, e.g. `iconv -f"
            " WINDOWS-1252 -t UTF-8`."
        ) from None
    try:
        yaml.compose(text, Loader=yaml.SafeLoader)  # tags such as !function are not looked up
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"whose line {mark.line + 1}" if mark else "which"
        raise BadInput(
            f"{KEY} has {str(path)!r}, {place} is not valid YAML"
            f" ({getattr(error, 'problem', None) or error}); expected a task file of lm-eval."
            " Correct the file."
        ) from None
    return text


def _library() -> Path | None:
    """Return the folder of lm-eval where stages run, None where it is not installed."""
    return ask("rlhf_core.interpreter.installed:package_folder", LIBRARY)


@cache
def _known_to_library() -> dict[str, Path]:
    """Return the folder of the file that defines each task, group and tag of lm-eval."""
    library = _library()
    assert library is not None, "lm-eval was found before"
    found: dict[str, Path] = {}
    for file in sorted((library / "tasks").rglob("*.yaml")):
        for name in _NAMED.findall(file.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(name, file.parent)
    return found
