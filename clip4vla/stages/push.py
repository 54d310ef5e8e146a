"""`clip4vla checkpoint push`: send an exported folder to the Hugging Face Hub."""

import re
from collections.abc import Callable
from pathlib import Path

from clip4vla.checkpoints.hub import CARD, Repository, repository_of
from clip4vla.checkpoints.upload import exported_files, upload
from clip4vla.common.errors import UserError


def push(
    folder: Path,
    name: str,
    revision: str | None,
    public: bool,
    dry_run: bool,
    tell: Callable[[str], None],
) -> None:
    """Send the files of an export as one commit; `tell` is called with each line of the report.

    name: OWNER/NAME; revision: a branch, which is created if it is missing. Nothing is sent with
    dry_run. Raises UserError for a folder that is not an export, and where the Hub refuses.
    """
    repository = _branch(name, revision)
    files = exported_files(folder)
    if public:
        _check_licence(files[CARD])
    place = f"branch {repository.revision or 'main'}, {'public' if public else 'private'} if new"
    tell(f"{'would send' if dry_run else 'sending'} to hf://{repository.id} ({place}):")
    sizes = {name: path.stat().st_size for name, path in files.items()}
    for file, size in [*sizes.items(), ("all", sum(sizes.values()))]:
        tell(f"  {file:<18}{size:>15,} bytes")
    others = sorted(path.name for path in folder.iterdir() if path.name not in files)
    if others:
        tell(f"never sent, since an export does not write them: {', '.join(others)}")
    if dry_run:
        return
    done = upload(files, repository, public)
    unchanged = "" if done.changed else "unchanged, nothing was sent; "
    tell(f"{unchanged}{'private' if done.private else 'public'}: {done.url}")
    tell(f'load it with clip4vla.load("{done.address}")')


def _branch(name: str, revision: str | None) -> Repository:
    """Return the repository with the branch to write. Raises UserError for a commit."""
    name = name if name.startswith("hf:/") else f"hf://{name}"
    repository = repository_of(f"{name}@{revision}" if revision else name)
    if re.fullmatch(r"[0-9a-f]{40}", repository.revision or ""):
        raise UserError(
            f"{repository}: a commit, which nothing can be added to. Fix: name a branch"
        )
    return repository


def _check_licence(card: Path) -> None:
    from huggingface_hub import metadata_load

    try:
        stated = metadata_load(card) or {}
    except ValueError as error:  # not YAML
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{card}: its front matter is invalid ({reason}). Fix: correct it"
        ) from None
    if not stated.get("license"):
        raise UserError(
            f"{card}: states no license, which a public repository needs. Fix: run `clip4vla "
            "checkpoint export` again with --license, such as cc-by-4.0"
        )
