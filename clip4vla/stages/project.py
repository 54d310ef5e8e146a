"""A new project of a user: their config and tables, and a Snakefile that uses the workflow."""

import shutil
from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.common.files import whole_files
from clip4vla.common.packaged import workflow_file

TEMPLATES = Path(__file__).parent / "project"
# Folder of the workflow -> folder of the project. Never `profiles/default`, which Snakemake would
# load over the profile that the user names.
COPIED = {
    "profiles/local": "profiles/local",
    "profiles/slurm": "profiles/slurm",
    "workflow/schemas": "schemas",
}


def init(folder: Path) -> list[Path]:
    """Write a project into a new or existing folder; return its files, relative to it.

    Raises UserError, before anything is written, if one of them exists; all are written or none.
    """
    sources = _files(TEMPLATES, Path())
    for copied, target in COPIED.items():
        sources |= _files(workflow_file(copied), Path(target))
    for name in sources:
        if (folder / name).exists():
            raise UserError(f"{folder / name}: exists. Fix: choose another folder, or move it away")
    with whole_files([folder / name for name in sources]) as temporaries:
        for source, temporary in zip(sources.values(), temporaries, strict=True):
            shutil.copyfile(source, temporary)
    return sorted(sources)


def _files(source: Path, target: Path) -> dict[Path, Path]:
    """Return the files below `source`, by their place below `target`."""
    files = (path for path in source.rglob("*") if path.is_file())
    return {target / path.relative_to(source): path for path in files}
