"""What this interpreter has, found without importing it."""

import subprocess
import sys
from importlib import metadata

from rlhf_core.interpreter.installed import normal_name, package_folder, versions


def test_a_package_is_found_by_its_folder_and_not_imported():
    code = (
        "import sys; from rlhf_core.interpreter.installed import package_folder;"
        " print(package_folder('torch').name, package_folder('no_such_package'),"
        " 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch", "None", "False"]


def test_a_module_without_a_folder_is_no_package():
    assert package_folder("bisect") is None


def test_the_versions_are_those_of_the_installed_distributions():
    found = versions()
    for name in ("torch", "great-expectations", "typing_extensions"):
        assert found[normal_name(name)] == metadata.version(name)


def test_names_are_compared_as_indices_do():
    assert (
        normal_name("Typing_Extensions") == normal_name("typing.extensions") == "typing-extensions"
    )
