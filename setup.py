"""Copy into a wheel what an installed project needs and no package holds.

These files keep their folders in a checkout: the models' code in mlflow/, the locks in infra/. An
editable installation reads them there. `tasks.records.shipped` finds them in both places.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("mlflow/*_model.py", "infra/requirements/*.txt")


class BuildPackages(build_py):
    """The step that copies the packages to the wheel, and the files of SHIPPED after them."""

    def run(self) -> None:
        """Copy the packages and the files."""
        super().run()
        if self.editable_mode:
            return
        for pattern in SHIPPED:
            for file in sorted(Path().glob(pattern)):
                target = Path(self.build_lib, "tasks", "shipped", file)
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildPackages})
