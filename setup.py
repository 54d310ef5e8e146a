"""What pyproject.toml cannot say: the workflow, which lies beside the package, ships inside it."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

WORKFLOW = (  # `clip4vla.snakefile()` and `clip4vla init` find it in clip4vla/_workflow
    *("workflow/Snakefile", "workflow/report", "workflow/schemas", "rules"),
    *("envs/clip4vla.yaml", "profiles/local", "profiles/slurm"),
)


class BuildWithWorkflow(build_py):
    """Copy the files of the workflow, unless the installation is editable and uses the checkout."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        for name in WORKFLOW:
            target = Path(self.build_lib, "clip4vla", "_workflow", name)
            self.mkpath(str(target.parent))
            if Path(name).is_dir():
                self.copy_tree(name, str(target))
            else:
                self.copy_file(name, str(target))


setup(cmdclass={"build_py": BuildWithWorkflow})
