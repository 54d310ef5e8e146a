"""Files beside the package: Snakefile, rules, profiles and schemas; the documentation."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def workflow_file(name: str) -> Path:
    """Return the path of a file or folder of the workflow, such as `workflow/Snakefile`.

    A wheel has it inside the package (setup.py); a checkout beside the package.
    """
    inside = PACKAGE / "_workflow"
    return (inside if inside.is_dir() else PACKAGE.parent) / name


def see(page: str) -> str:
    """Return ` (docs/PAGE)` for a message; "" without the documentation: a wheel has none."""
    return f" (docs/{page})" if workflow_file(f"docs/{page}").is_file() else ""
