"""Upload of an exported folder to the Hugging Face Hub, as one commit."""

from dataclasses import dataclass
from pathlib import Path

from clip4vla.checkpoints.hub import CARD, CONFIG, LOG_IN, WEIGHTS, Repository, one_line
from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, sha256_of_file
from clip4vla.models.common.metadata import read_settings
from clip4vla.models.common.tensor_files import read_metadata

RUN = "run.json"
EXPORT = "run `clip4vla checkpoint export` again"


@dataclass(frozen=True)
class Uploaded:
    """The result of an upload. address: with the commit; url: of the commit's page.

    changed: false if the branch had these files already.
    """

    address: str
    url: str
    private: bool
    changed: bool


def exported_files(folder: Path) -> dict[str, Path]:
    """Return the files of an export by their names on the Hub. No other file is ever sent.

    Raises UserError for a folder that is not a complete export, or whose files do not belong
    together.
    """
    files = {name: folder / name for name in (CARD, CONFIG, WEIGHTS)}
    for name, path in files.items():
        if not path.is_file():
            raise UserError(
                f"{folder}: no {name} in it. Fix: give a folder that `clip4vla checkpoint export` "
                "wrote, with --names ours"
            )
    try:
        stated = read_json(files[CONFIG])
    except ValueError as error:
        raise UserError(f"{files[CONFIG]}: not JSON ({error}). Fix: {EXPORT}") from None
    read_settings(files[WEIGHTS], read_metadata(files[WEIGHTS]))
    if stated != read_metadata(files[WEIGHTS]):
        raise UserError(f"{files[CONFIG]}: not the metadata of {WEIGHTS}. Fix: {EXPORT}")
    if sha256_of_file(files[WEIGHTS]) not in files[CARD].read_text(encoding="utf-8"):
        raise UserError(
            f"{files[CARD]}: does not state the sha256 of {WEIGHTS}, so it may describe other "
            f"weights. Fix: {EXPORT}"
        )
    return files | ({RUN: folder / RUN} if (folder / RUN).is_file() else {})


def upload(files: dict[str, Path], repository: Repository, public: bool) -> Uploaded:
    """Send files as one commit to a branch, and create repository and branch where missing.

    A new repository is private unless `public`; an existing one keeps its visibility. The branch
    changes with the commit alone, so an interrupted upload leaves it as it was; files that the Hub
    has are not sent again. Raises UserError without a token, for a public repository without
    `public`, and where the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if get_token() is None:
        raise UserError(f"{repository}: no access token. Fix: {LOG_IN} to one that may write")
    api = HfApi(library_name="clip4vla")
    with one_line(repository):
        try:
            private = bool(api.model_info(repository.id).private)
        except RepositoryNotFoundError:
            api.create_repo(repository.id, private=not public)
            private = not public
        if not private and not public:
            raise UserError(
                f"{repository}: exists, and everybody can read it. Fix: pass --public, or name "
                "another repository"
            )
        if repository.revision is not None:
            api.create_branch(repository.id, branch=repository.revision, exist_ok=True)
        before = api.model_info(repository.id, revision=repository.revision)
        stale = {file.rfilename for file in before.siblings or []} & {RUN} - files.keys()
        try:
            commit = api.create_commit(
                repository.id,
                [
                    *(CommitOperationAdd(name, path) for name, path in files.items()),
                    *(CommitOperationDelete(name) for name in stale),
                ],
                commit_message="Upload a checkpoint of clip4vla",
                revision=repository.revision,
            )
        except ValueError as error:
            raise _refused(repository, error) from None
    return Uploaded(
        address=str(Repository(repository.id, commit.oid)),
        url=commit.commit_url,
        private=private,
        changed=commit.oid != before.sha,
    )


def _refused(repository: Repository, error: ValueError) -> Exception:
    """Return the error for a card or a file that the Hub does not accept."""
    if isinstance(error, UserError | OSError):  # BadRequestError is an OSError, too
        return error
    reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())[:300]
    return UserError(f"{repository}: refused ({reason.rstrip('.')}). Fix: correct the file")
