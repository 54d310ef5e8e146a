"""What the page says of its index and its model before the first search."""

from pathlib import Path
from typing import Any

from clip4vla.search.index import Index, Window

SAMPLES = 8  # windows that are shown before the first search
TINY = (
    "This is a tiny model for demonstrations. It finds a sound or a picture that it gets as a "
    "query, and others that look or sound almost the same; of words it understands next to "
    "nothing, so what it finds for them is close to chance."
)


def about(index: Index) -> dict[str, Any]:
    """Return the facts of the page; `mixes` has the first value of each slider, or None."""
    settings = index.embedder.settings
    shares, token = index.about.nonverbal_shares, settings.nonverbal_share
    return {
        "model": named(index.about.checkpoint),
        "windows": len(index),
        "files": index.files,
        "folder": str(index.media),
        "notice": TINY if settings.model.is_demo else "",
        "hears": "audio" in settings.modalities,
        "mixes": {
            "sound_weight": 0.5 if len(settings.modalities) > 1 else None,
            "nonverbal_share": None if len(shares) == 1 else 0.5 if token is None else token,
        },
        "samples": [described(window) for window in index.spread(SAMPLES)],
    }


def named(checkpoint: str) -> str:
    """Return a short name of a checkpoint: of a file, with its folder, which names the run."""
    return "/".join(Path(checkpoint).parts[-2:]) if Path(checkpoint).is_absolute() else checkpoint


def described(window: Window) -> dict[str, Any]:
    """Return what the page shows of a window."""
    return {
        "row": window.row,
        "path": window.path,
        "name": window.path.rsplit("/", 1)[-1],
        "start": window.start,
        "end": window.end,
        "has_picture": window.has_picture,
        "has_sound": window.has_sound,
    }
