"""Files of the workflow: Snakefile, rules, profiles and schemas."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def workflow_file(name: str) -> Path:
    """Return the path of a file or folder of the workflow, such as `workflow/Snakefile`.

    A wheel has it inside the package (setup.py); a checkout beside the package.
    """
    inside = PACKAGE / "_workflow"
    return (inside if inside.is_dir() else PACKAGE.parent) / name
