"""The checkpoint of an index: a file of this project, or CLIP by a name of open_clip."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clip4vla.checkpoints.checkpoint import Checkpoint
from clip4vla.checkpoints.convert import convert
from clip4vla.checkpoints.hub import Source, is_address
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.common.log import log
from clip4vla.models.common.published import config_of, known_openai, tag_file
from clip4vla.models.family import family_of
from clip4vla.search.embedder import BATCH, Embedder, embedder_of, load

OPEN_CLIP = "open_clip:"  # then ARCHITECTURE:TAG, or ARCHITECTURE@FILE
WHERE = "--checkpoint"


@dataclass(frozen=True)
class Opened:
    """An embedder, and the file that it was read from."""

    embedder: Embedder
    source: str  # opens it again, from any folder
    sha256: str


def open_checkpoint(
    source: str, device: str | torch.device | None = None, batch_size: int = BATCH
) -> Opened:
    """Return the embedder of a checkpoint.

    source: a file that this project wrote, its address on the Hub, or CLIP, which finds by
    pictures alone: `open_clip:ViT-B-32:laion2b_s34b_b79k`, from open_clip's cache or after a
    download that is announced, or `open_clip:ViT-B-32@FILE`, where a name with -quickgelu says the
    activation, as in open_clip. UserError for what cannot be opened.
    """
    if source.startswith(OPEN_CLIP):
        return _open_clip(source.removeprefix(OPEN_CLIP), device, batch_size)
    if not is_address(source) and "://" not in source:
        _existing(Path(source))
    embedder = load(source, device, batch_size)
    found = embedder.source
    assert found is not None, "set by `load`"
    return Opened(embedder, found.hub or str(found.path.resolve()), sha256_of_file(found.path))


def _open_clip(name: str, device: str | torch.device | None, batch_size: int) -> Opened:
    """Return CLIP, by ARCHITECTURE:TAG or ARCHITECTURE@FILE."""
    architecture, _, file = name.partition("@")
    if file:
        path = _existing(Path(file)).resolve()
        quick = "quickgelu" in architecture or sha256_of_file(path) in known_openai()
        model = {"architecture": architecture, "activation": "quick_gelu" if quick else "gelu"}
        name = f"{architecture}@{path}"
    else:
        path = tag_file(WHERE, name, download=_announced)
        quick = bool(config_of(WHERE, name)[2].get("quick_gelu"))
        model = {"activation": "quick_gelu" if quick else "gelu"}
    conversion = convert(
        path, fresh=("audio",), overrides={"model": model, "modalities": ["vision"]}
    )
    conversion.fill_model()
    settings = conversion.settings
    if not file:
        family_of(settings.model.family).check_tag(WHERE, name, settings.model)
    for line in conversion.assumed:
        log.info(f"{path}: {line}")
    checkpoint = Checkpoint(conversion.model.eval(), settings, conversion.origin)
    embedder = embedder_of(checkpoint, Source(path), device, batch_size)
    return Opened(embedder, OPEN_CLIP + name, sha256_of_file(path))


def _announced(config: dict[str, Any]) -> str:
    """Download the file of a tag, and say so."""
    from open_clip.pretrained import download_pretrained

    log.info(f"downloading {config.get('hf_hub') or config.get('url')} into open_clip's cache")
    return download_pretrained(config)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            f"{WHERE} {path}: no such file. Fix: name a model.safetensors of this project, "
            f"hf://OWNER/NAME, or {OPEN_CLIP}ARCHITECTURE:TAG"
        )
    return path
