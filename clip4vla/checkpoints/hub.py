"""Checkpoints on the Hugging Face Hub, by their address `hf://OWNER/NAME[@REVISION]`.

huggingface_hub does the transfers and keeps its cache, so HF_ENDPOINT, HF_HOME, HF_TOKEN and
HF_HUB_OFFLINE work as everywhere. Only two files of a repository are fetched: `config.json`, which
shows whether it is one of our checkpoints, and `model.safetensors`. No pickle is ever read.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clip4vla.common.errors import FIXABLE, UserError
from clip4vla.common.files import read_json, sha256_of_file
from clip4vla.common.log import log
from clip4vla.models.common.metadata import read_settings

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORM = "hf://OWNER/NAME, or hf://OWNER/NAME@REVISION for a branch, tag or commit"
LOG_IN = "run `hf auth login`, or set HF_TOKEN"
_ADDRESS = re.compile(  # one / in what was a Path
    r"hf:/{1,2}(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>.+))?", re.ASCII
)
_REVISION = re.compile(r"(?!.*(\.\.|//))[\w][\w./-]*", re.ASCII)  # also a path below the cache
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub. revision: a branch, tag or commit; None: its main branch."""

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return its address."""
        return f"hf://{self.id}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Source:
    """The file of a checkpoint. hub: its address with the commit; None: a file of the user."""

    path: Path
    hub: str | None = None

    def described(self) -> dict[str, str]:
        """Return what identifies the file in the provenance of an output."""
        stated = {"file": self.path.name, "sha256": sha256_of_file(self.path)}
        return stated | ({"hub": self.hub} if self.hub else {})


def is_address(given: str | Path) -> bool:
    """Return whether a checkpoint is given by its address on the Hub, and not as a file."""
    return str(given).startswith("hf:/")


def source_of(given: str | Path) -> Source:
    """Return the file of a checkpoint that is given as a path or as an address of the Hub.

    A file of the Hub is downloaded unless it is cached. Raises UserError for a missing file, for an
    address of the wrong form, and for a repository that cannot be read or is not a checkpoint of
    this project.
    """
    if is_address(given):
        return _downloaded(repository_of(str(given)))
    if isinstance(given, str) and "://" in given:
        raise UserError(f"{given}: not a checkpoint. Fix: give a path, or hf://OWNER/NAME")
    path = Path(given)
    if path.is_dir():
        raise UserError(f"{path}: a folder. Fix: name a file of weights, such as {path / WEIGHTS}")
    if not path.exists():
        raise UserError(
            f"{path}: no such file. Fix: name a {WEIGHTS} of this project, or hf://OWNER/NAME"
        )
    return Source(path)


def repository_of(address: str) -> Repository:
    """Return the repository of an address. Raises UserError for one of the wrong form."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    found = _ADDRESS.fullmatch(address)
    address = address if address.isprintable() else ascii(address)
    if found is None or found["id"].split("/")[0] in ("models", "datasets", "spaces", "buckets"):
        raise UserError(f"{address}: not the address of a model on the Hub. Fix: give {FORM}")
    if found["revision"] is not None and _REVISION.fullmatch(found["revision"]) is None:
        raise UserError(
            f"{address}: {found['revision']!r} is not the name of a branch, tag or commit. Fix: "
            f"give {FORM}"
        )
    try:
        validate_repo_id(found["id"])
    except HFValidationError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{address}: {reason}. Fix: correct the name") from None
    return Repository(found["id"], found["revision"])


def _downloaded(repository: Repository) -> Source:
    """Return the weights of a repository at the commit that its revision names now."""
    from huggingface_hub import hf_hub_download

    with one_line(repository):
        config = Path(hf_hub_download(repository.id, CONFIG, revision=repository.revision))
        commit = config.parent.name
        if _COMMIT.fullmatch(commit) is None:
            raise UserError(
                f"{repository}: the server names no commit. Fix: unset HF_ENDPOINT, or set it to a "
                "server of the Hub's protocol"
            )
        _check_ours(repository, config)
        path = Path(hf_hub_download(repository.id, WEIGHTS, revision=commit))
    pinned = str(Repository(repository.id, commit))
    _check_sha256(repository, path)
    log.info(f"{repository}: commit {commit}")
    return Source(path, pinned)


def _check_ours(repository: Repository, config: Path) -> None:
    """Raise UserError before the weights are downloaded if they cannot be ours."""
    try:
        stated = read_json(config)
        stated = stated if isinstance(stated, dict) and "format" in stated else {}
    except ValueError:  # not JSON
        stated = {}
    if not stated:
        raise not_ours(repository, f"its {CONFIG} was not written by `clip4vla checkpoint export`")
    read_settings(f"{repository}/{CONFIG}", stated)


def not_ours(repository: Repository, why: str) -> UserError:
    """Return the error for a repository of other weights."""
    return UserError(
        f"{repository}: not a checkpoint of this project ({why}). Fix: correct the name, or "
        "download its weights and run `clip4vla checkpoint import`"
    )


def _check_sha256(repository: Repository, path: Path) -> None:
    """Raise UserError if a cached file differs from the sha256 by which the Hub stores it.

    The cache names a large file by its sha256, unless its file system has no symbolic links.
    """
    blob = path.resolve()
    if _SHA256.fullmatch(blob.name) and sha256_of_file(blob) != blob.name:
        raise UserError(
            f"{repository}: {blob} is damaged: its sha256 differs from the Hub's. Fix: delete that "
            "file and run the same command again"
        )


@contextmanager
def one_line(repository: Repository) -> Iterator[None]:
    """Turn errors of the Hub and the network into UserError: one line with the remedy."""
    from huggingface_hub import constants, errors

    def problem(text: str, fix: str) -> UserError:
        return UserError(f"{repository}: {text}. Fix: {fix}")

    try:
        yield
    except errors.GatedRepoError:
        page = f"{constants.ENDPOINT}/{repository.id}"
        raise problem(
            "gated: its authors grant access", f"ask for it on {page}, then {LOG_IN}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise problem(
            "no such repository, or a private one that this user may not read",
            f"correct the name, or {LOG_IN}",
        ) from None
    except errors.RevisionNotFoundError:
        raise problem(
            "the repository has no such branch, tag or commit",
            "correct the part after @, or leave it out",
        ) from None
    except errors.LocalEntryNotFoundError as error:
        if constants.is_offline_mode():
            raise problem(
                "not in the cache, and HF_HUB_OFFLINE is set",
                "unset it, or load this checkpoint once with network access",
            ) from None
        raise problem(
            f"not in the cache, and no answer from {constants.ENDPOINT} ({_reason(error)})",
            "check the network, then run the same command again",
        ) from None
    except errors.OfflineModeIsEnabled:
        raise problem("HF_HUB_OFFLINE is set", "unset it") from None
    except errors.RemoteEntryNotFoundError:
        raise not_ours(repository, f"it has no {CONFIG} or no {WEIGHTS}") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        fix = LOG_IN if status in (401, 403) else "run the same command again later"
        raise problem(f"refused with status {status} ({_reason(error)})", fix) from None
    except _transfer_errors() as error:
        if isinstance(error, OSError) and error.errno in FIXABLE:  # of the disk
            raise
        raise problem(
            f"the transfer failed ({_reason(error)})",
            "check the network, then run the same command again",
        ) from None


def _transfer_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a transfer: of HTTP, of sizes that differ, of the chunks of Xet."""
    from huggingface_hub import errors

    http = errors.HfHubHTTPError.__bases__[0]  # of the HTTP library, which differs by version
    return http, OSError, RuntimeError, errors.XetDownloadError


def _reason(error: BaseException) -> str:
    """Return one line: the server's own message, or that of the error that an error comes from."""
    text = getattr(error, "server_message", None)
    while not text and error.__cause__ is not None:
        error = error.__cause__
        text = getattr(error, "server_message", None)
    lines = (text or str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")
