"""Hold sizes, parameters, names and the layout of the tests, so that they cannot grow unnoticed.

The limits of lines are for the code. A module of tests mirrors a module of the code and may be
longer, because it holds every claim about that module beside the data that those claims share.
"""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("flows", "tasks", "rlhf_core")
MOST_FILES, MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS, MOST_SKIPS = 20, 300, 50, 6, 20
COMMANDS = ROOT / "flows" / "cli"  # a command has a parameter per option
MIRRORS = {
    "tests/core": "rlhf_core",
    "tests/orchestration/tasks": "tasks",
    "tests/orchestration/flows": "flows",
}
EXCEPTIONS = {  # tests of no single module: why
    "tests/core/config/test_hyperparameters.py": "a page of the documentation",
    "tests/core/contest/test_rates.py": "the error rates that a page of the documentation states",
    "tests/core/objectives/test_invariances.py": "what must not matter to any objective",
    "tests/core/objectives/test_pair_invariances.py": "what must not matter to losses of pairs",
    "tests/core/objectives/test_parity.py": "every loss against other packages",
    "tests/core/objectives/test_parity_advantages.py": "advantages against other packages",
    "tests/core/plan/test_measured.py": "the planner against the memory of real stages",
    "tests/core/ppo/test_layout_stages.py": "three stages, one after the other",
    "tests/core/test_current_folder.py": "the package itself, which says where a stage looks first",
    "tests/core/test_stages.py": "the learning stages, one after the other",
    "tests/orchestration/tasks/execution/test_ranks.py": "stages of the core on two ranks",
    "tests/orchestration/tasks/promotion/test_accounts.py": "promotion on a server with accounts",
    "tests/orchestration/tasks/promotion/test_kills.py": "promotion killed after every write",
    "tests/orchestration/tasks/promotion/test_races.py": "promotions at the same time",
    "tests/orchestration/tasks/registry/test_model_answers.py": "what packaged models answer",
    "tests/orchestration/tasks/test_new_stage.py": "a new stage across the three layers",
}


def modules() -> list[Path]:
    return [file for layer in LAYERS for file in sorted((ROOT / layer).rglob("*.py"))]


def modules_of_tests() -> list[Path]:
    return sorted((ROOT / "tests").rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for file in modules():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield file, node


def type_names(tree: ast.Module) -> Iterator[str]:
    """Yield the classes and type aliases that a module defines at its top level.

    An alias is what has a name in CamelCase: of a Literal, a dict, a tuple, a union and so on.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and re.match(r"[A-Z]\w*[a-z]", target.id):
                yield target.id


def test_no_folder_holds_more_files_than_one_sees_at_a_glance():
    files = [*modules(), *modules_of_tests()]
    count = Counter(relative(file.parent) for file in files)
    assert {folder: n for folder, n in count.items() if n > MOST_FILES} == {}


def test_no_module_is_long():
    lines = {relative(file): len(file.read_text().splitlines()) for file in modules()}
    assert {file: n for file, n in lines.items() if n > MOST_LINES} == {}


def test_no_function_is_long():
    lines = {
        f"{relative(file)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for file, node in functions()
    }
    assert {name: n for name, n in lines.items() if n > MOST_FUNCTION_LINES} == {}


def test_no_function_outside_the_command_line_has_many_parameters():
    found = {}
    for file, node in functions():
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        if count > MOST_PARAMETERS and COMMANDS not in file.parents:
            found[f"{relative(file)}:{node.lineno} {node.name}"] = count
    assert found == {}


def test_the_name_of_a_type_is_defined_once():
    places = defaultdict(list)
    for file in modules():
        for name in type_names(ast.parse(file.read_text())):
            places[name].append(relative(file))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@pytest.mark.parametrize("tests", MIRRORS)
def test_the_tests_of_a_module_are_where_its_name_says(tests):
    for file in (ROOT / tests).rglob("test_*.py"):
        folder = ROOT / MIRRORS[tests] / file.parent.relative_to(ROOT / tests)
        module = folder / f"{file.stem.removeprefix('test_')}.py"
        assert module.exists() or relative(file) in EXCEPTIONS, f"{relative(file)}: no {module}"


def test_every_exception_is_a_test():
    assert [name for name in EXCEPTIONS if not (ROOT / name).exists()] == []


def test_few_lines_are_kept_from_the_formatter():
    files = [*modules(), *modules_of_tests()]
    mark = "# fmt: " + "skip"
    assert sum(file.read_text().count(mark) for file in files) <= MOST_SKIPS
