"""Published weights of CLIP: open_clip's tags, and OpenAI's own files by their sha256.

open_clip ships one table of both: for each architecture its tags, with URLs, hashes and training
settings. Nothing of it is repeated here.
"""

import difflib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.load import Weights
from clip4vla.config.sections import Activation
from clip4vla.models.common.images import ImageStatistics

Download = Callable[[dict[str, Any]], str]


def _table() -> ModuleType:
    """Return open_clip's table, which is imported late: it loads the client of the hub."""
    import open_clip.pretrained as pretrained

    return pretrained


def known_openai() -> dict[str, tuple[str, str]]:
    """Return OpenAI's files: sha256 to (architecture, file name)."""
    known: dict[str, tuple[str, str]] = {}
    pretrained = _table()
    for name in pretrained.list_pretrained_models_by_tag("openai"):
        *_, sha256, file = pretrained.get_pretrained_url(name, "openai").split("/")
        known.setdefault(sha256, (name, file))
    return known


def unverified_warning(path: Path, sha256: str, archive: bool = False) -> str | None:
    """Return a warning about a file that looks like one of OpenAI's but has another sha256.

    A file looks so by its name, or because it is a TorchScript `archive`. None: no warning.
    """
    known = known_openai()
    seems = archive or Path(path).name in {file for _, file in known.values()}
    if sha256 in known or not seems:
        return None
    return (
        f"{path}: looks like OpenAI's file, but its sha256 {sha256} matches none of OpenAI's. Fix: "
        "download it again from a source that you trust"
    )


def published_as(sha256: str, item: Weights) -> str | None:
    """Return the published file with this hash: OpenAI's, or the open_clip tag's; None: unknown.

    sha256: of the file that was read for `item`; by now, its path may hold another file.
    """
    known = known_openai()
    if sha256 in known:
        return f"OpenAI's {known[sha256][1]}"
    if item.open_clip is not None:
        cached = _cached(config_of("weights", item.open_clip)[2])
        if cached is not None and sha256_of_file(cached) == sha256:
            return f"open_clip's {item.open_clip}"
    return None


def tag_file(where: str, tagged: str, download: Download | None = None) -> Path:
    """Return the file of a tag in open_clip's cache, after downloading it if necessary.

    UserError for a tag that open_clip does not know, or that cannot be downloaded.
    """
    _, _, config = config_of(where, tagged)
    download = download or _table().download_pretrained
    if (cached := _cached(config)) is not None:
        return cached
    try:
        return Path(download(config))
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"{where}: open_clip could not download {tagged} ({reason}). Fix: run this once on a "
            "machine with network access, or download the file and give it as `path`"
        ) from None


def config_of(where: str, tagged: str) -> tuple[str, str, dict[str, Any]]:
    """Return the architecture, the tag and open_clip's settings of `ARCHITECTURE:TAG`."""
    name, _, tag = tagged.partition(":")
    pretrained = _table()
    config = pretrained.get_pretrained_cfg(name, tag)
    if not config:
        known = pretrained.list_pretrained(as_str=True)
        near = difflib.get_close_matches(tagged, known, n=3, cutoff=0.4)
        choices = f"one like {', '.join(near)}" if near else "an ARCHITECTURE:TAG"
        raise UserError(
            f"{where}: open_clip has no {tagged!r}. Fix: choose {choices} "
            "(open_clip.list_pretrained(as_str=True) returns all)"
        )
    return name, tag, config


def check_preparation(
    where: str, tagged: str, statistics: ImageStatistics, activation: Activation
) -> None:
    """Raise UserError unless a tag was trained with an activation, and on images prepared as here.

    where: the config key to name. No tensor shows either, so open_clip's table is asked.
    """
    *_, config = config_of(where, tagged)
    images = {"interpolation": "bicubic", "resize_mode": "shortest"}
    for key, value in (statistics._asdict() | images).items():
        if config[key] != value:
            raise UserError(
                f"{where}: {tagged} was trained on images prepared differently from frames and "
                f"spectrograms here ({key} {config[key]}, not {value}). Fix: choose another tag"
            )
    trained = "quick_gelu" if config.get("quick_gelu") else "gelu"
    if trained != activation:
        raise UserError(
            f"{where}: {tagged} was trained with {trained}, but model.activation is "
            f"{activation}. Fix: set model.activation: {trained}"
        )


def _cached(config: dict[str, Any]) -> Path | None:
    """Return the file of a hub's tag if it is cached, without any network access."""
    import huggingface_hub
    import open_clip.constants as constants

    repository, _, file = config.get("hf_hub", "").rpartition("/")
    names = [file] if file else [constants.HF_SAFE_WEIGHTS_NAME, constants.HF_WEIGHTS_NAME]
    for name in names if repository else []:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    return None
